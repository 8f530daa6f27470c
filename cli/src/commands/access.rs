//! `farm ticket`, `login`, `logout` and `context`: who is let in, and where one is.

use std::io::Read;
use std::time::{Duration, SystemTime};

use farm_client::contexts::{Context, Contexts};
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_proto::close;
use farm_proto::ids::TicketId;
use farm_proto::ticket::{NewTicket, Ticket, TicketStatus};
use serde_json::{Value, json};

use super::{connect, print, print_json, tell};
use crate::cli::{ContextCommand, FarmArgs, LoginArgs, Output, TicketCommand, TicketCreateArgs};
use crate::report::Report;

/// More text than this is no ticket.
const LONGEST_TICKET: u64 = 64 << 10;

pub(crate) async fn ticket(command: TicketCommand, output: Output) -> Result<u8, Report> {
    match command {
        TicketCommand::Create(args) => create(args, output).await,
        TicketCommand::List(farm) => list(&farm, output).await,
        TicketCommand::Revoke { ticket, farm } => revoke(ticket, &farm, output).await,
    }
}

async fn create(args: TicketCreateArgs, output: Output) -> Result<u8, Report> {
    let TicketCreateArgs { role, name, cluster, expires, uses, farm } = args;
    let name = name.unwrap_or_else(|| role.to_string());
    let valid_s = expires.as_secs().max(u64::from(!expires.is_zero()));
    let client = connect(&farm).await?;
    let (text, status) = client.new_ticket(NewTicket { role, name, cluster, valid_s, uses }).await?;
    client.close().await;
    match output {
        Output::Json => {
            let mut shown = json_of(&status);
            shown["ticket"] = text.into();
            print_json(&shown)?;
        }
        Output::Text => {
            print(&format!("{text}\n"))?;
            let TicketStatus { ticket, role, name, .. } = &status;
            let uses = match status.uses_left {
                None => String::new(),
                Some(1) => ", once".to_owned(),
                Some(uses) => format!(", {uses} times"),
            };
            let cluster = status.cluster.as_ref().map_or_else(String::new, |name| format!(" of cluster {name}"));
            let time = in_words(Duration::from_secs(valid_s));
            tell(&format!(
                "ticket {ticket} lets in {name} as {role}{cluster} for {time}{uses}; `farm ticket revoke {ticket}` takes \
                 it back"
            ));
        }
    }
    Ok(exit_codes::OK)
}

async fn list(farm: &FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(farm).await?;
    let tickets = client.tickets().await?;
    client.close().await;
    match output {
        Output::Json => print_json(&tickets.iter().map(json_of).collect::<Vec<_>>())?,
        Output::Text => print(&table(&tickets))?,
    }
    Ok(exit_codes::OK)
}

async fn revoke(ticket: TicketId, farm: &FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(farm).await?;
    let status = client.revoke(ticket).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&json_of(&status))?,
        Output::Text => {
            let TicketStatus { role, name, .. } = &status;
            tell(&format!("ticket {ticket} is revoked: nobody is {name} as {role} by it any more"));
        }
    }
    Ok(exit_codes::OK)
}

/// The names are a promise.
fn json_of(status: &TicketStatus) -> Value {
    let TicketStatus { ticket, role, name, cluster, created_by, created_ms, .. } = status;
    json!({
        "id": ticket.to_string(),
        "role": role,
        "name": name,
        "cluster": cluster,
        "created_by": created_by,
        "created_ms": created_ms,
        "expires_s": status.expires_s,
        "uses_left": status.uses_left,
        "revoked_ms": status.revoked_ms,
        "connections": status.connections,
    })
}

fn table(tickets: &[TicketStatus]) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "{:<9}{:<8}{:<16}{:<12}{:>6}{:>6}  {:<16}STATE\n",
        "ID", "ROLE", "NAME", "CLUSTER", "USES", "CONN", "BY"
    );
    let now = SystemTime::now();
    for status in tickets {
        let cluster = status.cluster.as_deref().unwrap_or("-");
        let uses = status.uses_left.map_or_else(|| "any".to_owned(), |uses| uses.to_string());
        let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(status.expires_s));
        let state = match until.map(|until| until.duration_since(now)) {
            _ if status.revoked_ms.is_some() => "revoked".to_owned(),
            _ if status.uses_left == Some(0) => "used up".to_owned(),
            Some(Ok(left)) => format!("for {}", in_words(left)),
            Some(Err(_)) => "expired".to_owned(),
            None => "for ever".to_owned(),
        };
        let TicketStatus { ticket, role, name, created_by, connections, .. } = status;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<9}{:<8}{name:<16}{cluster:<12}{uses:>6}{connections:>6}  {created_by:<16}{state}",
            ticket.to_string(),
            role.as_str(),
        );
    }
    text
}

fn in_words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

pub(crate) async fn login(args: LoginArgs, output: Output) -> Result<u8, Report> {
    let text = if args.ticket == "-" { from_stdin()? } else { args.ticket };
    let ticket: Ticket = text.parse()?;
    let contexts = Contexts::of(&Home::from_env());
    let (context, link) = contexts.login(ticket, args.name.as_deref()).await?;
    link.close(close::DONE).await;
    match output {
        Output::Json => print_json(&context_json(&contexts, &context, true))?,
        Output::Text => {
            let Context { name, place } = &context;
            let (role, address) = (place.role, place.address());
            tell(&format!("logged in to {name} ({address}) as {role}; commands go there until `farm logout`"));
        }
    }
    Ok(exit_codes::OK)
}

fn from_stdin() -> Result<String, Report> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(LONGEST_TICKET).read_to_string(&mut text);
    read.map_err(|error| Report::usage("cannot read a ticket from stdin").because(&error))?;
    Ok(text)
}

pub(crate) fn logout(name: Option<&str>, output: Output) -> Result<u8, Report> {
    let contexts = Contexts::of(&Home::from_env());
    let Context { name, .. } = contexts.logout(name)?;
    let current = contexts.current()?;
    match output {
        Output::Json => print_json(&json!({"name": name, "current": current.map(|context| context.name)}))?,
        Output::Text => {
            let next = match current {
                Some(current) => format!("commands go to {}", current.name),
                None if contexts.all()?.is_empty() => "you are logged in to no other".to_owned(),
                None => "`farm context use NAME` chooses another".to_owned(),
            };
            tell(&format!("logged out of {name}, and its certificate is deleted; {next}"));
        }
    }
    Ok(exit_codes::OK)
}

pub(crate) fn context(command: ContextCommand, output: Output) -> Result<u8, Report> {
    let contexts = Contexts::of(&Home::from_env());
    match command {
        ContextCommand::List => {
            let current = contexts.current()?;
            let all = contexts.all()?;
            let is_current = |context: &Context| current.as_ref() == Some(context);
            match output {
                Output::Json => {
                    let shown = all.iter().map(|context| context_json(&contexts, context, is_current(context)));
                    print_json(&shown.collect::<Vec<_>>())?;
                }
                Output::Text => {
                    for context in &all {
                        let mark = if is_current(context) { "*" } else { " " };
                        let Context { name, place } = context;
                        print(&format!("{mark} {name:<24}{:<28}{}\n", place.address(), place.role))?;
                    }
                }
            }
        }
        ContextCommand::Use { name } => {
            let context = contexts.choose(&name)?;
            match output {
                Output::Json => print_json(&context_json(&contexts, &context, true))?,
                Output::Text => tell(&format!("commands go to {name} ({}) from now on", context.place.address())),
            }
        }
    }
    Ok(exit_codes::OK)
}

/// The names are a promise.
fn context_json(contexts: &Contexts, context: &Context, is_current: bool) -> Value {
    let until = contexts.valid_until(context).and_then(|until| until.duration_since(SystemTime::UNIX_EPOCH).ok());
    json!({
        "name": context.name,
        "address": context.place.address(),
        "role": context.place.role,
        "current": is_current,
        "certificate_until_s": until.map(|since| since.as_secs()),
    })
}
