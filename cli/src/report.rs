//! The one place where errors become a message, a hint and an exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use farm_client::args::ArgsError;
use farm_client::blobs::InputError;
use farm_client::client::ClientError;
use farm_client::contexts::ContextError;
use farm_client::exit_codes;
use farm_client::guest::GuestError;
use farm_client::launch::LaunchError;
use farm_client::modules::LoadError;
use farm_client::outputs::OutputError;
use farm_host::agent::AgentError;
use farm_host::module::ModuleError;
use farm_link::LinkError;
use farm_proto::close;
use farm_proto::message::RequestError;
use farm_proto::ticket::TicketError;
use farm_scheduler::SchedulerError;
use farm_scheduler::config::{ConfigError, Size};
use serde_json::json;

use crate::cli::Output;

/// Why a command did not do what it was asked, ready to be shown.
#[derive(Debug)]
pub(crate) struct Report {
    code: u8,
    message: String,
    hint: Option<String>,
    /// Set where everything has been said already.
    silent: bool,
}

impl Report {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, silent: false }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(exit_codes::USAGE, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(exit_codes::INTERNAL, message)
    }

    /// An exit code whose reason has been shown already.
    pub(crate) fn silent(code: u8) -> Self {
        Self { silent: true, ..Self::new(code, "") }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a person is told, in one line.
    pub(crate) fn line(&self) -> String {
        self.hint.as_ref().map_or_else(|| self.message.clone(), |hint| format!("{} ({hint})", self.message))
    }

    /// Adds an error and its sources to the message.
    pub(crate) fn because(mut self, error: &dyn Error) -> Self {
        let _ = write!(self.message, ": {}", chain(error));
        self
    }

    fn from_error(code: u8, error: &dyn Error) -> Self {
        Self::new(code, chain(error))
    }
}

/// An error and its sources in one line, without saying anything twice.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {more}");
        }
        source = error.source();
    }
    text
}

/// Shows what went wrong, if anything did, and gives the exit code.
pub(crate) fn exit(result: Result<u8, Report>, output: Output) -> ExitCode {
    let report = match result {
        Ok(code) => return code.into(),
        Err(report) => report,
    };
    if !report.silent {
        // Where even stderr is closed there is nobody left to tell.
        let _ = match output {
            Output::Text => show(&report),
            Output::Json => {
                let error = json!({"error": {"code": report.code, "message": report.message, "hint": report.hint}});
                writeln_stderr(&error.to_string())
            }
        };
    }
    report.code.into()
}

fn show(report: &Report) -> io::Result<()> {
    writeln_stderr(&format!("error: {}", report.message))?;
    report.hint.as_ref().map_or(Ok(()), |hint| writeln_stderr(&format!("hint: {hint}")))
}

fn writeln_stderr(text: &str) -> io::Result<()> {
    use io::Write as _;
    writeln!(io::stderr(), "{text}")
}

/// Writing results failed. A reader that has seen enough (`| head`) is no error.
impl From<io::Error> for Report {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(exit_codes::OK);
        }
        Self::internal("cannot write the results").because(&error)
    }
}

impl From<ArgsError> for Report {
    fn from(error: ArgsError) -> Self {
        let code = if matches!(error, ArgsError::Spool(_)) { exit_codes::INTERNAL } else { exit_codes::BAD_ARGUMENTS };
        let report = Self::from_error(code, &error);
        match error {
            ArgsError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                report.hint("--args takes a file, a JSON array such as '[1, 2, 3]', or - for stdin")
            }
            ArgsError::NotAnArray { .. } => {
                report.hint("each element of the array is one task; for one value a line, add --ndjson")
            }
            ArgsError::Trailing { .. } => report.hint("for JSON values one behind the other, add --ndjson"),
            ArgsError::Element { .. } => report.hint("`farm inspect MODULE` shows what its functions take"),
            ArgsError::Spool(_) => report.hint("TMPDIR says where temporary files go"),
            ArgsError::Read { .. } | ArgsError::NotJson { .. } => report,
        }
    }
}

impl From<InputError> for Report {
    fn from(error: InputError) -> Self {
        let code = match error {
            InputError::Form(_)
            | InputError::Name(_)
            | InputError::Twice(_)
            | InputError::SecretForm(_)
            | InputError::SecretName(_)
            | InputError::TwiceSecret(_)
            | InputError::ManySecrets(_) => exit_codes::USAGE,
            InputError::Read { .. }
            | InputError::Kind(_)
            | InputError::Outside { .. }
            | InputError::Loop(_)
            | InputError::Many(_)
            | InputError::LargeSecret(_) => exit_codes::BAD_MODULE,
        };
        Self::from_error(code, &error)
    }
}

impl From<LoadError> for Report {
    fn from(error: LoadError) -> Self {
        let report = Self::from_error(exit_codes::BAD_MODULE, &error);
        match error {
            LoadError::Module { source, .. } => report.for_module(&source),
            LoadError::Read { path, .. } if path.is_dir() => {
                report.hint(format!("`farm build {}` makes a module of a function crate", path.display()))
            }
            LoadError::Read { .. } => report,
        }
    }
}

impl From<ModuleError> for Report {
    fn from(error: ModuleError) -> Self {
        Self::from_error(exit_codes::BAD_MODULE, &error).for_module(&error)
    }
}

impl Report {
    fn for_module(self, error: &ModuleError) -> Self {
        match error {
            ModuleError::NotWasm { .. } | ModuleError::Empty => {
                self.hint("`farm build` makes a .wasm of a Rust crate; .wat text is taken as well")
            }
            ModuleError::WhichFunction { .. } | ModuleError::AmbiguousFunction { .. } => {
                self.hint("name it with --function NAME")
            }
            ModuleError::NoSuchFunction { .. } => self.hint("`farm inspect MODULE` shows them all"),
            ModuleError::Truncated { .. } => self.hint("was the file copied or downloaded whole?"),
            _ => self,
        }
    }
}

impl From<TicketError> for Report {
    fn from(error: TicketError) -> Self {
        Self::from_error(exit_codes::USAGE, &error)
            .hint("a ticket is one line: farm://host:port/role?ca=…&secret=…; quote it in a shell")
    }
}

impl From<ContextError> for Report {
    fn from(error: ContextError) -> Self {
        let code = match error {
            ContextError::Link(error) => return error.into(),
            ContextError::Name(_) | ContextError::Taken { .. } | ContextError::Worker => exit_codes::USAGE,
            ContextError::Unknown { .. } | ContextError::NotLoggedIn => exit_codes::NOT_FOUND,
            ContextError::Damaged { .. } | ContextError::Folder { .. } => exit_codes::INTERNAL,
        };
        let report = Self::from_error(code, &error);
        match error {
            ContextError::Taken { name, .. } => {
                report.hint(format!("--as NAME calls the new one otherwise; `farm logout {name}` forgets the old one"))
            }
            ContextError::Unknown { .. } | ContextError::NotLoggedIn => {
                report.hint("`farm login TICKET` logs in to one, `farm context list` shows those there are")
            }
            ContextError::Worker => report.hint("`farm ticket create --role user` makes one for a user"),
            ContextError::Damaged { .. } => report.hint("`farm login TICKET` writes it anew"),
            _ => report,
        }
    }
}

impl From<ClientError> for Report {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Link(error) => error.into(),
            ClientError::Refused(refused @ RequestError::NoSuchJob(_)) => {
                Self::from_error(exit_codes::NOT_FOUND, &refused).hint("`farm jobs` lists them")
            }
            ClientError::Refused(ref refused @ RequestError::NoSuchWorker(_)) => {
                Self::from_error(exit_codes::NOT_FOUND, refused)
                    .hint("`farm status` lists them, with their numbers and names")
            }
            ClientError::Refused(ref refused @ RequestError::NoSuchCluster { .. }) => {
                Self::from_error(exit_codes::NOT_FOUND, refused)
                    .hint("`farm cluster list` shows them, `farm cluster create` makes one")
            }
            ClientError::Refused(ref refused @ RequestError::WhichCluster(_)) => {
                Self::from_error(exit_codes::USAGE, refused).hint("--cluster NAME says which one is to run the job")
            }
            ClientError::Refused(ref refused @ RequestError::NoSuchTicket(_)) => {
                Self::from_error(exit_codes::NOT_FOUND, refused).hint("`farm ticket list` shows them all")
            }
            ClientError::Refused(ref refused @ RequestError::NoSuchTask { .. }) => {
                Self::from_error(exit_codes::NOT_FOUND, refused)
            }
            ClientError::Refused(ref refused @ RequestError::NotOver(job)) => {
                Self::from_error(exit_codes::REFUSED, refused)
                    .hint(format!("`farm job cancel {job}` stops it, `farm job results {job}` waits for it"))
            }
            ClientError::Refused(ref refused @ RequestError::Needed { by, .. }) => {
                Self::from_error(exit_codes::REFUSED, refused)
                    .hint(format!("`farm why {by}` shows what that one waits for"))
            }
            ClientError::Refused(ref refused @ RequestError::NothingToRetry(_)) => {
                Self::from_error(exit_codes::REFUSED, refused)
                    .hint("every task has a result, or failed for its input: then retry the job that this comes from")
            }
            ClientError::Refused(RequestError::OverLimit { user, used, more, limit }) => {
                let [used, more, limit] = [used, more, limit].map(Size);
                let message = format!(
                    "the farm refused: the jobs of {user} keep {used} there, and this one needs {more} more, of {limit} \
                     that are allowed"
                );
                Self::new(exit_codes::REFUSED, message)
                    .hint("`farm jobs` lists them; `farm job delete JOB` frees what only that one keeps")
            }
            ClientError::Refused(RequestError::ShuttingDown) | ClientError::Ended => {
                Self::from_error(exit_codes::UNREACHABLE, &error)
            }
            ClientError::Away { .. } => Self::from_error(exit_codes::UNREACHABLE, &error)
                .hint("the job goes on when it does; `farm job results JOB` fetches what it gives"),
            ClientError::NoRandomness => Self::from_error(exit_codes::INTERNAL, &error),
            ClientError::Refused(_) => Self::from_error(exit_codes::REFUSED, &error),
            ClientError::Source(_) => Self::from_error(exit_codes::BAD_MODULE, &error),
            ClientError::Write(_) => Self::from_error(exit_codes::INTERNAL, &error),
            ClientError::Changed(_) => Self::from_error(exit_codes::BAD_MODULE, &error)
                .hint("submit again once nothing writes to it any more; what has arrived is not sent again"),
            ClientError::Columns(_) | ClientError::Unexpected(_) => Self::from_error(exit_codes::INTERNAL, &error),
        }
    }
}

impl From<OutputError> for Report {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::Client(error) => error.into(),
            OutputError::Exists(_) | OutputError::NotEmpty(_) => Self::from_error(exit_codes::USAGE, &error)
                .hint("--force replaces what is in the way; another folder leaves it as it is"),
            OutputError::Link(_) => Self::from_error(exit_codes::USAGE, &error),
            OutputError::Path { .. } | OutputError::Write { .. } => Self::from_error(exit_codes::INTERNAL, &error),
        }
    }
}

impl From<LinkError> for Report {
    fn from(error: LinkError) -> Self {
        let code = match error {
            LinkError::Refused { .. }
            | LinkError::Revoked { .. }
            | LinkError::NoIdentity
            | LinkError::WrongFarm { .. } => exit_codes::REFUSED,
            LinkError::Lost(ref lost) if is_refusal(lost) => exit_codes::REFUSED,
            LinkError::Resolve { .. }
            | LinkError::Unreachable { .. }
            | LinkError::Connect { .. }
            | LinkError::Lost(_)
            | LinkError::CutOff
            | LinkError::Stopped(_) => exit_codes::UNREACHABLE,
            _ => exit_codes::INTERNAL,
        };
        let report = Self::from_error(code, &error);
        match error {
            LinkError::Refused { .. } | LinkError::Revoked { .. } => {
                report.hint("ask whoever runs the farm for a new one: `farm ticket create --role ROLE`")
            }
            LinkError::NoIdentity => {
                report.hint("`farm login TICKET` gets another for a new ticket: ask whoever runs the farm for one")
            }
            LinkError::WrongFarm { .. } => report.hint("the farm may have been made anew: ask for a new ticket"),
            LinkError::Unreachable { .. } | LinkError::Resolve { .. } => {
                report.hint("is the scheduler up, and may UDP packets reach it? `farm up` starts one here")
            }
            LinkError::Lost(lost) if is_refusal(&lost) => {
                report.hint("ask whoever runs the farm for a ticket of that role")
            }
            LinkError::Lost(_) | LinkError::CutOff => report.hint("the scheduler may have ended"),
            _ => report,
        }
    }
}

/// Whether the farm closed the connection because of who this is, which the certificate says.
fn is_refusal(lost: &quinn::ConnectionError) -> bool {
    let reasons = [close::FORBIDDEN, close::BAD_TICKET].map(u64::from);
    matches!(lost, quinn::ConnectionError::ApplicationClosed(closed) if reasons.contains(&closed.error_code.into_inner()))
}

impl From<SchedulerError> for Report {
    fn from(error: SchedulerError) -> Self {
        let report = Self::from_error(exit_codes::INTERNAL, &error);
        match error {
            SchedulerError::Listen { .. } => report.hint("--listen takes another address; port 0 is any that is free"),
            SchedulerError::InUse { .. } => report.hint("--state takes another folder"),
            SchedulerError::Newer { .. } => report.hint("a newer `farm` opens it; this one needs a folder of its own"),
            SchedulerError::Corrupt { .. } => {
                report.hint("`farm admin check` lists all that is wrong; a backup can be put in its place")
            }
            SchedulerError::Incomplete { .. } => report.hint(
                "put it back from a backup: `farm admin backup` copies it; or start anew with an empty --state folder",
            ),
            SchedulerError::NotEmpty { .. } => report.hint("a backup goes into a folder of its own"),
            _ => report,
        }
    }
}

impl From<ConfigError> for Report {
    fn from(error: ConfigError) -> Self {
        Self::from_error(exit_codes::USAGE, &error).hint("docs/guide/access.md shows what can be in it")
    }
}

impl From<AgentError> for Report {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Link(error) => error.into(),
            AgentError::Away { ref source, .. } => {
                let report = Self::from_error(exit_codes::UNREACHABLE, &error);
                tracing::debug!(%source, "gave up");
                report.hint(
                    "--wait says how long a worker waits for its scheduler, --first-wait for one that has never \
                     answered: is its UDP port open from here?",
                )
            }
            AgentError::Artefact(error) => error.into(),
            AgentError::Cache { .. } => {
                Self::from_error(exit_codes::INTERNAL, &error).hint("FARM_CACHE says where workers keep things")
            }
            AgentError::Protocol(_) | AgentError::Slot(_) | AgentError::Signals(_) => {
                Self::from_error(exit_codes::INTERNAL, &error)
            }
        }
    }
}

impl From<LaunchError> for Report {
    fn from(error: LaunchError) -> Self {
        let report = Self::from_error(exit_codes::INTERNAL, &error);
        match error.hint() {
            Some(hint) => report.hint(hint),
            None => report,
        }
    }
}

impl From<GuestError> for Report {
    fn from(error: GuestError) -> Self {
        let code = match error {
            GuestError::Exists(_) | GuestError::Name(_) | GuestError::NoCrate(_) | GuestError::NotCdylib(_) => {
                exit_codes::USAGE
            }
            _ => exit_codes::BAD_MODULE,
        };
        let report = Self::from_error(code, &error);
        match error {
            GuestError::NoTarget(target) => report.hint(format!("rustup target add {}", target.triple())),
            GuestError::NoCrate(_) => report.hint("`farm new NAME` makes one"),
            _ => report,
        }
    }
}
