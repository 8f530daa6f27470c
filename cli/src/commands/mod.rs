//! What each command does. All of them give an exit code, or a [`Report`] of what went wrong.

pub(crate) mod access;
pub(crate) mod admin;
pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod farm;
pub(crate) mod fetch;
pub(crate) mod guest;
pub(crate) mod inspect;
mod job;
pub(crate) mod jobs;
mod last_words;
pub(crate) mod parts;
mod plan;
mod progress;
pub(crate) mod run;
pub(crate) mod secret;
mod show;
pub(crate) mod submit;
mod watch;
pub(crate) mod why;

use std::io::{self, Write};
use std::path::PathBuf;

use farm_client::client::{Client, LinkNews};
use farm_client::contexts::Contexts;
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::launch::StandingFarm;
use farm_link::dial::Dialer;
use serde::Serialize;

use crate::cli::FarmArgs;
use crate::report::Report;

/// The `farm` binary that is running: the parts of a farm on this machine are the same one.
fn exe() -> Result<PathBuf, Report> {
    std::env::current_exe().map_err(|error| Report::internal("cannot find the farm binary").because(&error))
}

/// How to connect to the farm that was named, or that this user is logged in to, or that is up on this machine. What was
/// said on the command line comes before the environment, and that before what was said once and for all.
fn find_farm(farm: &FarmArgs, home: &Home) -> Result<Option<Dialer>, Report> {
    let by_ticket = |text: &str| Ok(Some(Dialer::new(text.parse()?, Some(&home.identities()))));
    let contexts = Contexts::of(home);
    match (farm.ticket.as_deref(), farm.farm.as_deref()) {
        (Some(_), Some(_)) => {
            return Err(Report::usage("--ticket and --farm both name a farm").hint("one of them is enough"));
        }
        (Some(text), None) => return by_ticket(text),
        (None, Some(name)) => return Ok(Some(contexts.dialer(&contexts.get(name)?))),
        (None, None) => {}
    }
    if let Some(text) = std::env::var("FARM_TICKET").ok().filter(|text| !text.is_empty()) {
        return by_ticket(&text);
    }
    if let Some(context) = contexts.current()? {
        return Ok(Some(contexts.dialer(&context)));
    }
    let Some(standing) = StandingFarm::find(home) else { return Ok(None) };
    Ok(Some(Dialer::new(standing.ticket()?, Some(&home.identities()))))
}

/// Connects to the farm of [`find_farm`].
async fn connect(farm: &FarmArgs) -> Result<Client, Report> {
    let home = Home::from_env();
    let Some(dialer) = find_farm(farm, &home)? else {
        let hint = if StandingFarm::recorded(&home).is_some() {
            "the farm of `farm up` is gone: `farm up` brings it back with its jobs; `farm login`, --ticket or FARM_TICKET \
             lead to another"
        } else {
            "`farm up` starts one here; `farm login`, --ticket or FARM_TICKET lead to another"
        };
        return Err(Report::new(exit_codes::UNREACHABLE, "no farm is up on this machine, and no ticket names another")
            .hint(hint));
    };
    dial(dialer).await
}

/// Connects to a farm, and has the user told when it has to be waited for later on.
async fn dial(dialer: Dialer) -> Result<Client, Report> {
    let client = Client::connect_by(dialer).await?;
    Ok(client.telling(|news| match news {
        LinkNews::Lost { patience, .. } => tell(&watch::away(patience)),
        LinkNews::Back { after } => tell(&watch::back(after)),
    }))
}

/// Prints one JSON document on stdout.
fn print_json(value: &impl Serialize) -> Result<(), Report> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Prints text on stdout.
fn print(text: &str) -> Result<(), Report> {
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

/// Tells the user something on stderr. Where that is closed, nobody listens.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
