//! Mistakes, and what the compiler says of them.

#[test]
fn mistakes_are_answered_with_what_to_write_instead() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
