#[derive(Debug)]
pub(crate) enum Deferred {}
