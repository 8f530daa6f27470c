use super::*;

#[test]
fn words_reach_a_shell_as_they_are() {
    for (word, expected) in [
        ("a-b_1=x", "a-b_1=x"),
        ("", "''"),
        ("a b", "'a b'"),
        ("it's", r"'it'\''s'"),
        ("$x", "'$x'"),
        ("%i|%T", "'%i|%T'"),
    ] {
        assert_eq!(quoted(word), expected);
    }
}

#[test]
fn the_end_of_a_log_begins_with_a_line() {
    assert_eq!(tail("a\nb\n"), "a\nb");
    let long: String = (0..1000).map(|number| format!("line {number} ü\n")).collect();
    let end = tail(&long);
    assert!(end.len() <= MAX_WORDS && end.starts_with("line ") && end.ends_with("line 999 ü"), "{end}");
}

#[test]
fn bases_differ_and_leases_follow_from_them() {
    let (one, other) = (random_base(), random_base());
    assert_ne!(one, other);
    assert_eq!(one.len(), 12);
    assert_eq!(lease(&one, 3), format!("{one}-3"));
}
