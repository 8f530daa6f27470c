//! Results for those who wait for them.

use farm_core::Time;
use farm_proto::ids::JobId;

use crate::client::Item;
use crate::disk::Key;
use crate::world::{Action, World};

/// Somebody who is given the batches of a job as they are stored, on one stream.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) key: Key,
    pub(crate) job: JobId,
    /// The next batch to be sent.
    pub(crate) next: u64,
    /// When the last word arrives.
    pub(crate) arrival: Time,
}

impl World {
    /// Sends the watchers of a job what they do not have.
    pub(crate) fn serve(&mut self, job: JobId) {
        let Some(shell) = &mut self.shell else { return };
        let view = shell.core.job(job);
        let over = view.as_ref().is_none_or(|view| view.state.is_final());
        let mut items = Vec::new();
        for (&stream, watch) in shell.watches.iter_mut().filter(|(_, watch)| watch.job == job) {
            let stored = self.disk.jobs.get(&job);
            let batches = stored.map_or(&[][..], |stored| &stored.batches);
            for rows in &batches[(watch.next as usize).min(batches.len())..] {
                items.push((stream, Item::Batch { number: watch.next, rows: rows.clone() }));
                watch.next += 1;
            }
            match &view {
                Some(view) if over => items.push((stream, Item::End(view.state))),
                Some(_) => {}
                None => items.push((stream, Item::Gone)),
            }
        }
        for (stream, item) in items {
            let delay = self.dice.within(5);
            let now = self.now;
            let Some(watch) = self.shell().watches.get_mut(&stream) else { continue };
            watch.arrival = watch.arrival.max(now + delay);
            let (at, key) = (watch.arrival, watch.key);
            self.at(at, Action::Watched { key, stream, item });
        }
        if over {
            self.shell().watches.retain(|_, watch| watch.job != job);
        }
    }
}
