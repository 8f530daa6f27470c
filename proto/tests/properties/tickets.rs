//! Tickets: written and read, and what is no ticket.

use farm_proto::ids::Digest;
use farm_proto::ticket::{Role, Ticket};
use proptest::prelude::*;
use proptest::sample::Index;

use super::examples;

fn ticket() -> impl Strategy<Value = Ticket> {
    let host = prop_oneof![
        "[a-zA-Z0-9]([a-zA-Z0-9.-]{0,30}[a-zA-Z0-9])?",
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string()),
    ];
    let role = prop_oneof![Just(Role::Admin), Just(Role::User), Just(Role::Worker)];
    // As long as a real one, so that it does not stand anywhere by chance.
    (host, any::<u16>(), role, any::<[u8; 32]>(), "[A-Za-z0-9_=-]{20,90}")
        .prop_map(|(host, port, role, ca, secret)| Ticket { host, port, role, ca: Digest(ca), secret })
}

/// Whatever is a ticket is the same ticket when it is written again.
fn check(text: &str) {
    let Ok(ticket) = text.parse::<Ticket>() else { return };
    assert_eq!(ticket.to_string().parse::<Ticket>().as_ref(), Ok(&ticket), "written again: {ticket}");
}

proptest! {
    #![proptest_config(examples(2048))]

    #[test]
    fn a_ticket_comes_back_as_it_went(ticket in ticket(), blanks in "[ \t\n]{0,3}") {
        let pasted = format!("{blanks}{ticket}{blanks}");
        prop_assert_eq!(ticket.to_string().parse(), Ok(ticket.clone()));
        prop_assert_eq!(pasted.parse(), Ok(ticket));
    }

    #[test]
    fn a_ticket_is_not_shown_with_its_secret(ticket in ticket()) {
        let shown = format!("{ticket:?}");
        prop_assert!(!shown.contains(&ticket.secret), "{}", shown);
    }

    #[test]
    fn any_text_is_a_ticket_or_is_not(text in "\\PC*") {
        check(&text);
    }

    #[test]
    fn any_text_of_a_tickets_parts_is_a_ticket_or_is_not(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("farm://"), Just("h"), Just("["), Just("]"), Just(":"), Just("7"), Just("/"), Just("admin"),
                Just("?"), Just("ca="), Just("&"), Just("secret="), Just(" "), Just("="), Just("é"),
                Just("0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF"),
            ],
            0..16,
        ),
    ) {
        check(&parts.concat());
    }

    #[test]
    fn any_host_and_secret_make_a_ticket_or_do_not(
        host in "([\\[\\]:. ab]|\\PC){1,6}",
        secret in "([= &ab\u{85}]|\\PC){1,6}",
        rest in "(&x=| )?",
    ) {
        let ca = Digest::of(host.as_bytes());
        check(&format!("farm://{host}:7/user?secret={secret}&ca={ca}{rest}"));
        check(&format!("farm://{host}:7/user?ca={ca}&secret={secret}{rest}"));
    }

    #[test]
    fn a_damaged_ticket_is_refused_without_its_secret(
        ticket in ticket(),
        (at, with) in (any::<Index>(), ".?"),
        drop: bool,
        separator: bool,
    ) {
        // One character is another, is left out, or is one too many; the secret itself stays whole.
        let text = ticket.to_string();
        let secret = text.len() - ticket.secret.len();
        let separators: Vec<_> = text[..secret].match_indices([':', '/', '?', '&', '=']).map(|(at, _)| at).collect();
        let at = if separator { separators[at.index(separators.len())] } else { at.index(secret) };
        let damaged = format!("{}{with}{}", &text[..at], &text[at + usize::from(drop)..]);
        check(&damaged);
        if let Err(error) = damaged.parse::<Ticket>() {
            let shown = format!("{error} {error:?}");
            prop_assert!(!shown.contains(&ticket.secret), "{}", shown);
        }
    }

    #[test]
    fn any_text_is_a_digest_or_is_not(text in "[0-9a-fA-F]{60,66}|.*") {
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text.to_lowercase());
        }
    }
}
