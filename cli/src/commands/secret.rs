//! `farm secret`, and what there is to say of secrets.

use std::time::SystemTime;

use farm_client::blobs::read_secrets;
use farm_client::exit_codes;
use farm_link::certificates;
use farm_proto::ids::JobId;
use farm_proto::secret::{SecretStatus, Secrets};
use serde_json::json;

use super::{connect, print, print_json, tell};
use crate::cli::{Output, SecretCommand};
use crate::report::Report;

pub(crate) async fn secret(command: SecretCommand, output: Output) -> Result<u8, Report> {
    let (job, secrets, farm) = match command {
        SecretCommand::Update { job, secrets, farm } => (job, read_secrets(&secrets)?, farm),
        SecretCommand::List { job, farm } => (job, Secrets::new(), farm),
    };
    warn(&secrets);
    let client = connect(&farm).await?;
    let status = client.secrets(job, secrets).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&in_json(job, &status))?,
        Output::Text => print(&describe(&status, now_ms()))?,
    }
    Ok(exit_codes::OK)
}

/// Says which certificates are about to run out, or have.
pub(super) fn warn(secrets: &Secrets) {
    for (name, value) in secrets {
        if let Some(warning) = certificates::warning(value.expose(), SystemTime::now()) {
            tell(&format!("warning: secret {name} {warning}"));
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// For programs. The names are a promise.
fn in_json(job: JobId, status: &[SecretStatus]) -> serde_json::Value {
    let secrets = status
        .iter()
        .map(|secret| json!({"name": secret.name, "given_ms": secret.given_ms, "expires_ms": secret.expires_ms}));
    json!({"job": job.0, "secrets": secrets.collect::<Vec<_>>()})
}

/// For people.
fn describe(status: &[SecretStatus], now_ms: u64) -> String {
    let mut text = String::new();
    for SecretStatus { name, given_ms, expires_ms } in status {
        let minutes = |from: u64, to: u64| to.saturating_sub(from) / 60_000;
        let is = match (given_ms, expires_ms) {
            (None, _) => "not there".to_owned(),
            (Some(_), None) => "there".to_owned(),
            (Some(_), Some(end)) if *end <= now_ms => {
                format!("there; its certificate ran out {} min ago", minutes(*end, now_ms))
            }
            (Some(_), Some(end)) => format!("there; its certificate runs out in {} min", minutes(now_ms, *end)),
        };
        text.push_str(&format!("{name}: {is}\n"));
    }
    if status.is_empty() {
        text.push_str("the job has no secrets\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ends_are_told() {
        let status = |given_ms, expires_ms| SecretStatus { name: "T".to_owned(), given_ms, expires_ms };
        let said = |given, expires| describe(&[status(given, expires)], 600_000);
        assert_eq!(said(None, None), "T: not there\n");
        assert_eq!(said(Some(1), None), "T: there\n");
        assert_eq!(said(Some(1), Some(1_200_000)), "T: there; its certificate runs out in 10 min\n");
        assert_eq!(said(Some(1), Some(0)), "T: there; its certificate ran out 10 min ago\n");
        assert_eq!(describe(&[], 0), "the job has no secrets\n");
    }
}
