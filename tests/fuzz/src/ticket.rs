//! Any text for a ticket.

use farm_proto::ids::Digest;
use farm_proto::ticket::Ticket;

/// Whether it looks like a secret. What does not may stand in a message because that has the same words.
fn is_secret(text: &str) -> bool {
    text.len() >= 20 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Reads bytes as a ticket, and as a digest. What is taken for one has to be the same when it is written again, and what
/// is not must be refused without its secret.
pub fn ticket(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text.to_lowercase());
    }
    match text.parse::<Ticket>() {
        Ok(ticket) => {
            assert_eq!(ticket.to_string().parse().as_ref(), Ok(&ticket), "written again: {ticket}");
            let shown = format!("{ticket:?}");
            let elsewhere = !is_secret(&ticket.secret) || text.matches(&ticket.secret).count() > 1;
            assert!(elsewhere || !shown.contains(&ticket.secret), "the secret is shown: {shown}");
        }
        Err(error) => {
            let Some((_, secret)) = text.trim_end().rsplit_once("secret=") else { return };
            let shown = format!("{error} {error:?}");
            let elsewhere = !is_secret(secret) || text.matches(secret).count() > 1;
            assert!(elsewhere || !shown.contains(secret), "the secret is quoted: {shown}");
        }
    }
}
