//! Any damage to a state folder.
//!
//! The bytes are read as edits of the files of a folder that a real scheduler has made: as it was left when the scheduler
//! ended, or as it was in the midst of its work. The folder is looked at, and a scheduler is started on it: both say
//! what is wrong, or find everything that was there.

mod edits;
mod folder;
mod making;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::OnceLock;

use farm_scheduler::admin::{CheckReport, check};
use farm_scheduler::{Options, Scheduler};

pub(crate) use self::edits::Edit;
use self::folder::Folder;

/// Which of the folder's files says how much there was. If it is lost together with another, the loss may go unnoticed.
const MARK: &str = "farm.mark";

/// What a scheduler has left.
struct Made {
    folders: [Folder; 2],
    facts: [Facts; 2],
}

/// How much of what must not be lost there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    jobs: u64,
    batches: u64,
    tasks: u64,
}

impl From<&CheckReport> for Facts {
    fn from(report: &CheckReport) -> Self {
        Self { jobs: report.jobs, batches: report.batches, tasks: report.tasks }
    }
}

/// Damages a state folder, looks at it and starts a scheduler on it. Panics if that panics, or if something is missing
/// and nobody says so.
pub fn store_recovery(data: &[u8]) {
    static MADE: OnceLock<Made> = OnceLock::new();
    let made = MADE.get_or_init(|| make().unwrap_or_else(|error| panic!("no folder was made: {error:#}")));
    let Some((which, edits)) = data.split_first() else { return };
    let which = usize::from(which % 2);
    let mut folder = made.folders[which].clone();
    let edited = edits::read(edits).filter_map(|edit| edit.apply(&mut folder)).collect();
    try_folder(&folder, &edited, made.facts[which]).unwrap_or_else(|error| panic!("no folder was written: {error}"));
}

/// `edited` are the files that are not as they were.
fn try_folder(folder: &Folder, edited: &std::collections::BTreeSet<String>, facts: Facts) -> std::io::Result<()> {
    let place = tempfile::tempdir()?;
    folder.write(place.path())?;
    let before = check(place.path());
    let has_started = start(place.path());
    let after = check(place.path());

    let is_blind = edited.len() > 1 && edited.contains(MARK);
    for report in [&before, &after].into_iter().flatten() {
        if report.faults.is_empty() && has_started && !is_blind {
            assert_eq!(Facts::from(report), facts, "nothing is wrong, but something is gone; edited: {edited:?}");
        }
    }
    if let (Ok(before), true) = (&before, has_started)
        && before.faults.is_empty()
    {
        let faults = after.map(|report| report.faults).map_err(|error| error.to_string());
        assert_eq!(faults, Ok(Vec::new()), "a scheduler was started on a whole folder; edited: {edited:?}");
    }
    Ok(())
}

fn options(state: &Path) -> Options {
    let options = Options::new(state).listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    Options { keep_results: None, ..options }
}

/// Whether a scheduler comes up.
fn start(state: &Path) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    match runtime.block_on(Scheduler::start(options(state))) {
        Ok(_) => true,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "refused without a word");
            false
        }
    }
}

fn make() -> anyhow::Result<Made> {
    let folders = making::folders()?;
    let mut facts = Vec::new();
    for folder in &folders {
        let place = tempfile::tempdir()?;
        folder.write(place.path())?;
        let report = check(place.path())?;
        anyhow::ensure!(report.faults.is_empty(), "{:?}", report.faults);
        anyhow::ensure!(report.jobs == 2 && report.batches >= 3, "{report:?}");
        facts.push(Facts::from(&report));
    }
    Ok(Made { folders, facts: [facts[0], facts[1]] })
}
