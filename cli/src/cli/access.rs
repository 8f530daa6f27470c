//! Tickets, and the farms that one has logged in to.

use std::time::Duration;

use clap::{Args, Subcommand};
use farm_proto::ids::TicketId;
use farm_proto::ticket::Role;

use super::{FarmArgs, duration};

#[derive(Debug, Subcommand)]
pub(crate) enum TicketCommand {
    /// Make a ticket and print it.
    Create(TicketCreateArgs),
    /// List the tickets that there are.
    List(FarmArgs),
    /// Take back a ticket: whoever came with it is cut off, and is not let in again.
    Revoke {
        /// As `farm ticket list` shows it.
        #[arg(value_name = "ID")]
        ticket: TicketId,
        #[command(flatten)]
        farm: FarmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TicketCreateArgs {
    /// What the bearer may do: user, worker or admin.
    #[arg(long, value_parser = role, value_name = "ROLE")]
    pub(crate) role: Role,
    /// Who the bearer will be; by default named as the role.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Of a worker: the cluster that it works in. By default `default`.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// How long it lets people in, in seconds or with a unit: 90, 15m, 8h, 7d. Whoever is in by then stays.
    #[arg(long, default_value = "7d", value_parser = duration, value_name = "TIME")]
    pub(crate) expires: Duration,
    /// How often it lets somebody in; by default as often as they like.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uses: Option<u32>,
    #[command(flatten)]
    pub(crate) farm: FarmArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// A ticket, or `-` to read it from stdin: there, no history of a shell keeps it.
    pub(crate) ticket: String,
    /// What to call the farm here; by default as its host.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the farms that you have logged in to.
    List,
    /// Choose the farm that commands go to.
    Use {
        /// As it is called here.
        name: String,
    },
}

fn role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|error: farm_proto::ticket::TicketError| error.to_string())
}
