//! Batches of outcomes: whether they make sense, and parts of them.

use std::ops::Range;

use bytes::Bytes;
use farm_proto::columns::{Columns, ColumnsError};
use farm_proto::job::is_below;
use farm_proto::message::Batch;
use farm_proto::outcome::{Failure, OutputFile};

use crate::memory::kept;

/// The most that a batch's failures and captured output may have together, in bytes: the batch has to fit into other
/// messages, too.
const MAX_TEXT: usize = 15 << 20;

/// Some outcomes to be stored, as a worker sent them or as the core made them.
#[derive(Debug, Clone)]
pub(crate) struct Outcomes {
    pub(crate) batch: Batch,
    /// The encoded columns of their results.
    pub(crate) columns: Bytes,
}

/// Why a batch makes no sense, whoever's tasks it is about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a batch without outcomes")]
    Empty,
    #[error("a batch of tasks beyond any number")]
    Beyond,
    #[error("offsets in a batch do not ascend within it")]
    Offsets,
    #[error("a batch with more output than fits into a message")]
    TooMuchText,
    #[error("a file of a task that is not below its folder")]
    Path,
    #[error("results that are no columns: {0}")]
    Columns(#[from] ColumnsError),
}

impl Outcomes {
    /// Takes in what a worker sent.
    ///
    /// # Errors
    ///
    /// It contradicts itself.
    pub(crate) fn parse(batch: Batch, columns: Bytes) -> Result<Self, Malformed> {
        if batch.count == 0 {
            return Err(Malformed::Empty);
        }
        if batch.first.checked_add(batch.count.into()).is_none() {
            return Err(Malformed::Beyond);
        }
        let failures = batch.failures.iter().map(|(offset, _)| *offset);
        let captured = batch.captured.iter().map(|(offset, _)| *offset);
        if !ascend(failures, batch.count) || !ascend(captured, batch.count) {
            return Err(Malformed::Offsets);
        }
        if text(&batch) > MAX_TEXT {
            return Err(Malformed::TooMuchText);
        }
        let files = || batch.captured.iter().flat_map(|(_, captured)| &captured.files);
        if files().any(|file| !is_below(&file.path)) {
            return Err(Malformed::Path);
        }
        Columns::decode(batch.count.into(), columns.clone())?;
        Ok(Self { batch, columns: kept(columns) })
    }

    /// The outcome of a task that no worker answered for.
    pub(crate) fn of_failure(task: u64, failure: Failure) -> Self {
        Self {
            batch: Batch {
                first: task,
                count: 1,
                failures: vec![(0, failure)],
                captured: Vec::new(),
                run_ns: 0,
                fetch_ns: 0,
                compile_ns: 0,
            },
            // One item without bytes: it ends at 0.
            columns: Bytes::from_static(&[0; 4]),
        }
    }

    /// The outcomes of some of the tasks. None if the tasks are not in the batch.
    pub(crate) fn part(&self, tasks: &Range<u64>) -> Option<Self> {
        let Batch { first, count, .. } = self.batch;
        let from = u32::try_from(tasks.start.checked_sub(first)?).ok()?;
        let to = u32::try_from(tasks.end.checked_sub(first)?).ok()?;
        if from >= to || to > count {
            return None;
        }
        if (from, to) == (0, count) {
            return Some(self.clone());
        }
        let columns = Columns::decode(count.into(), self.columns.clone()).ok()?;
        Some(Self {
            batch: Batch {
                first: tasks.start,
                count: to - from,
                failures: within(&self.batch.failures, from, to),
                captured: within(&self.batch.captured, from, to),
                run_ns: (u128::from(self.batch.run_ns) * u128::from(to - from) / u128::from(count)) as u64,
                ..self.batch
            },
            columns: columns.slice(from as usize, to as usize).encode(),
        })
    }

    /// The files that its tasks left.
    pub(crate) fn files(&self) -> impl Iterator<Item = &OutputFile> {
        self.batch.captured.iter().flat_map(|(_, captured)| &captured.files)
    }

    /// About how much storing it takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        64 + self.columns.len() + text(&self.batch)
    }
}

fn ascend(mut offsets: impl Iterator<Item = u32>, count: u32) -> bool {
    let mut least = 0;
    offsets.all(|offset| {
        let fits = offset >= least && offset < count;
        least = offset.saturating_add(1);
        fits
    })
}

fn within<T: Clone>(items: &[(u32, T)], from: u32, to: u32) -> Vec<(u32, T)> {
    items
        .iter()
        .filter(|(offset, _)| (from..to).contains(offset))
        .map(|(offset, item)| (offset - from, item.clone()))
        .collect()
}

fn text(batch: &Batch) -> usize {
    let failures = batch.failures.iter().map(|(_, failure)| {
        let frames = failure.backtrace.iter();
        let frames = frames.map(|frame| 16 + frame.function.len() + frame.file.as_ref().map_or(0, String::len));
        16 + failure.message.len() + frames.sum::<usize>()
    });
    let captured = batch.captured.iter().map(|(_, captured)| {
        let files = captured.files.iter().map(|file| 48 + file.path.len()).sum::<usize>();
        16 + captured.stdout.len() + captured.stderr.len() + captured.log.len() + files
    });
    failures.sum::<usize>() + captured.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use farm_proto::columns::ColumnsBuilder;
    use farm_proto::ids::Digest;
    use farm_proto::outcome::{Captured, FailureKind};

    use super::*;

    fn outcomes() -> Outcomes {
        let mut columns = ColumnsBuilder::new();
        (0..10u8).for_each(|n| columns.push(&vec![n; n.into()]));
        let failure = |text: &str| Failure::new(FailureKind::Panic, text);
        let log = |text: &str| Captured { log: text.to_owned(), ..Captured::default() };
        let batch = Batch {
            first: 100,
            count: 10,
            failures: vec![(0, failure("a")), (4, failure("b"))],
            captured: vec![(3, log("c")), (9, log("d"))],
            run_ns: 1000,
            fetch_ns: 7,
            compile_ns: 8,
        };
        Outcomes::parse(batch, columns.finish().encode()).unwrap()
    }

    #[test]
    fn a_part_has_what_belongs_to_its_tasks() {
        let part = outcomes().part(&(103..106)).unwrap();
        let Outcomes { batch, columns } = Outcomes::parse(part.batch, part.columns).unwrap();
        assert_eq!((batch.first, batch.count, batch.run_ns), (103, 3, 300));
        assert_eq!(batch.failures, [(1, Failure::new(FailureKind::Panic, "b"))]);
        assert_eq!(batch.captured.len(), 1);
        assert_eq!(batch.captured[0].0, 0);
        let columns = Columns::decode(3, columns).unwrap();
        assert_eq!(columns.iter().map(<[u8]>::len).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(outcomes().part(&(100..110)).unwrap().batch, outcomes().batch);
        for beyond in [99..101, 109..111, 103..103, 0..u64::MAX] {
            assert!(outcomes().part(&beyond).is_none(), "{beyond:?}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let changed = |change: fn(&mut Batch)| {
            let Outcomes { mut batch, columns } = outcomes();
            change(&mut batch);
            Outcomes::parse(batch, columns).unwrap_err()
        };
        assert!(matches!(changed(|batch| batch.count = 0), Malformed::Empty));
        assert!(matches!(changed(|batch| batch.first = u64::MAX), Malformed::Beyond));
        assert!(matches!(changed(|batch| batch.failures.reverse()), Malformed::Offsets));
        assert!(matches!(changed(|batch| batch.captured[1].0 = 10), Malformed::Offsets));
        assert!(matches!(changed(|batch| batch.captured[1].0 = 3), Malformed::Offsets));
        assert!(matches!(changed(|batch| batch.count = 11), Malformed::Columns(_)));
        let much = |batch: &mut Batch| batch.captured[0].1.stdout = vec![0; 16 << 20];
        assert!(matches!(changed(much), Malformed::TooMuchText));
        let outside = |batch: &mut Batch| {
            let path = "a/../../b".to_owned();
            batch.captured[0].1.files = vec![OutputFile { path, digest: Digest::of(b""), size: 0 }];
        };
        assert!(matches!(changed(outside), Malformed::Path));
    }

    #[test]
    fn a_lone_failure_is_well_formed() {
        let failure = Failure::new(FailureKind::WorkerLost, "gone");
        let Outcomes { batch, columns } = Outcomes::of_failure(7, failure);
        Outcomes::parse(batch, columns).unwrap();
    }
}
