//! A scheduler from its start to its end.

use crate::cluster::provider::{Local, Program, Provider, Slurm};
use crate::cluster::{self, Desk, FarmView, FleetViews, Provisioner};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use farm_link::transport;
use farm_proto::close;
use farm_proto::ticket::{NewTicket, Role, Ticket};
use quinn::Endpoint;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::blobs::Blobs;
use crate::farm::Farm;
use crate::farm::clusters::Board;
use crate::farm::owner::Owner;
use crate::http::Http;
use crate::identity::admission::Admission;
use crate::identity::ca::Ca;
use crate::identity::secret::{Secrets, unix_now};
use crate::identity::{self, MAX_TICKET};
use crate::serve::gone::{self, ErrorQueue};
use crate::serve::{Ending, Shared, listener};
use crate::state_dir::{StateDir, is_full};
use crate::store::Store;
use crate::{Options, SchedulerError};

/// How long workers may take to leave when the farm ends.
const WORKERS_LEAVE: Duration = Duration::from_secs(1);
/// How long what was taken in may take to be stored when the scheduler ends. What is not, its workers still have.
const FLUSH: Duration = Duration::from_secs(5);
/// How long peers may take to acknowledge that their connections are closed.
const PEERS_LEARN: Duration = Duration::from_millis(500);

/// A scheduler, bound to its address and to its state folder.
///
/// Three steps: [`start`](Self::start) makes it, [`run`](Self::run) serves until it is told to end, and dropping it,
/// or the future of `run`, ends everything at once and frees address and folder. It needs a tokio runtime with time and
/// I/O; a single-threaded one is best.
#[derive(Debug)]
pub struct Scheduler {
    endpoint: Endpoint,
    shared: Arc<Shared>,
    owner: Owner,
    provisioner: Provisioner,
    errors: ErrorQueue,
    http: Option<Http>,
    /// Held to the end.
    state: StateDir,
}

/// Ends a running scheduler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    ending: watch::Sender<Option<Ending>>,
}

impl Handle {
    /// Ends the farm, and makes [`Scheduler::run`] return: workers are told to leave, connections are closed with
    /// [`SHUTDOWN`](farm_proto::close::SHUTDOWN). Takes about a second at most. Returns at once.
    pub fn shutdown(&self) {
        self.ending.send_replace(Some(Ending::ForGood));
    }

    /// Makes [`Scheduler::run`] return: no more jobs are taken, what was taken in is stored, connections are closed with
    /// [`RESTART`](farm_proto::close::RESTART). Workers go on with what they have and wait for a scheduler to come back
    /// to this address and state. Returns at once; changes nothing if the farm is ending already.
    pub fn stop(&self) {
        self.ending.send_if_modified(|ending| {
            let is_news = ending.is_none();
            ending.get_or_insert(Ending::Stop);
            is_news
        });
    }
}

impl Scheduler {
    /// Locks the state folder, makes or loads the farm's identity, recovers the jobs that are stored, and binds the
    /// address: from here on, peers that dial are kept waiting until [`run`](Self::run). Writes `admin.ticket` and
    /// `worker.ticket` into the state folder, unless those that are there will do.
    ///
    /// # Errors
    ///
    /// The folder is another scheduler's, of a newer version, damaged, incomplete, or cannot be used; or the address
    /// cannot be listened on.
    pub async fn start(options: Options) -> Result<Self, SchedulerError> {
        let mut state = StateDir::open(&options.state)?;
        // First, as it is what may be refused; and it keeps room for the rest on a disk that is full.
        let (store, writer, recovered) = Store::open(&state, options.durability)?;
        let blobs = Arc::new(Blobs::open(&state, options.max_blob, options.durability)?);
        let used = identity::in_use(&state, recovered.last_job)?;
        let ca = Ca::open(&state, used)?;
        let secrets = Secrets::open(&state, used)?;
        let (farm, inbox) = Farm::new();
        let stored = (Arc::clone(&store), writer, recovered);
        let (show, shown) = watch::channel(FarmView::default());
        let (show_fleets, fleets) = watch::channel(FleetViews::default());
        let board = Board { show, fleets };
        let admission = Arc::<Admission>::default();
        let known = Arc::clone(&admission);
        let owner = Owner::recover(&options, inbox, stored, Arc::clone(&blobs), known, state.guard(), board)?;
        let (endpoint, errors) = bind(options.listen, listener::config(&ca, options.heartbeat)?, &secrets.reset_key())?;
        let local = endpoint.local_addr().map_err(listen_error(options.listen))?;
        let (http, reports) = match options.http {
            Some(address) => {
                let (http, reports) = Http::bind(address, Path::new("/proc/self/exe")).await?;
                (Some(http), reports)
            }
            None => (None, mpsc::channel(1).1),
        };
        state.announce(local)?;
        let desk = Arc::new(Desk {
            farm: ca.fingerprint().short(),
            local: Arc::new(Provider::Local(local_provider(&options, &state)?)),
            slurm: Arc::new(Provider::Slurm(Slurm::new(options.config.provider.slurm.clone()))),
            config: options.config.provider.clone(),
            program: program(&options, http.as_ref()),
        });
        let provisioner = Provisioner { shown, show: show_fleets, reports };
        let mut scheduler = Self {
            endpoint,
            provisioner,
            shared: Arc::new(Shared {
                options,
                local,
                ca,
                secrets,
                admission,
                blobs,
                store,
                farm,
                peers: gone::Peers::default(),
                ending: watch::Sender::default(),
                workers: AtomicU64::new(0),
                desk,
            }),
            owner,
            errors,
            http,
            state,
        };
        for role in [Role::Admin, Role::Worker] {
            scheduler.write_ticket(role).await?;
        }
        if let Some(http) = &scheduler.http {
            let (sha256, bytes) = http.program();
            tracing::info!(address = %http.local_addr(), sha256, bytes, "serving HTTP, and this program");
        }
        tracing::info!(address = %local, ca = %scheduler.shared.ca.fingerprint().short(), "listening");
        Ok(scheduler)
    }

    /// Writes a ticket into the state folder, unless the one that is there will do. It is a ticket like any other, and can
    /// be revoked; then this writes another at the next start.
    async fn write_ticket(&mut self, role: Role) -> Result<(), SchedulerError> {
        let name = format!("{role}.ticket");
        let path = self.state.join(&name);
        let found = match self.state.read(&name)?.map(String::from_utf8) {
            Some(Ok(text)) => text.trim().parse::<Ticket>().ok().filter(|found| self.is_good(found, role)),
            _ => None,
        };
        let ticket = match &found {
            Some(found) => self.led_here(found.clone()),
            None => {
                let (ticket, record) = self.make_ticket(role, role.as_str(), MAX_TICKET)?;
                // Whoever finds it can count on it, should this scheduler die at once.
                self.owner.store(record).await?;
                ticket
            }
        };
        if found.as_ref() == Some(&ticket) {
            return Ok(());
        }
        match self.state.write_private(&name, format!("{ticket}\n").as_bytes()) {
            Err(SchedulerError::State { source, .. }) if found.is_some() && is_full(&source) => {
                tracing::warn!(path = %path.display(), %source, "the ticket for a {role} leads to an earlier address");
            }
            result => {
                result?;
                tracing::info!(path = %path.display(), "wrote a ticket for a {role}");
            }
        }
        Ok(())
    }

    /// Whether a ticket of an earlier start lets in whom it should, for years to come.
    fn is_good(&self, found: &Ticket, role: Role) -> bool {
        let row = self.shared.secrets.check(&found.secret).ok().and_then(|ticket| self.owner.ticket(ticket));
        (found.role, found.ca) == (role, self.shared.ca.fingerprint())
            && row.is_some_and(|row| {
                let lasts = row.expires_s > unix_now() + MAX_TICKET.as_secs() / 2;
                row.role == role && row.revoked_ms.is_none() && row.uses_left.is_none() && lasts
            })
    }

    /// The ticket, leading to where this scheduler is now.
    fn led_here(&self, ticket: Ticket) -> Ticket {
        Ticket { host: self.shared.options.ticket_host(None), port: self.shared.local.port(), ..ticket }
    }

    /// The address that it listens on, with the port that it got.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    /// The address for HTTP, with the port that it got; none if there is no HTTP.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(Http::local_addr)
    }

    /// A ticket for `name` with which to enrol until `validity` from now; that of a worker is of the cluster `default`. It
    /// leads to the advertised host. It is stored once [`run`](Self::run) is called.
    ///
    /// # Errors
    ///
    /// The name is not 1 to 64 letters, digits, `.`, `_`, `-` or `@`, or the validity is nothing or over ten years.
    pub fn ticket(&mut self, role: Role, name: &str, validity: Duration) -> Result<Ticket, SchedulerError> {
        self.make_ticket(role, name, validity).map(|(ticket, _)| ticket)
    }

    /// A ticket, and the record with which it is stored.
    fn make_ticket(&mut self, role: Role, name: &str, validity: Duration) -> Result<(Ticket, u64), SchedulerError> {
        let valid_s = validity.as_secs().max(u64::from(!validity.is_zero()));
        let new = NewTicket { role, name: name.to_owned(), cluster: None, valid_s, uses: None };
        let (row, record) = self.owner.make_ticket(&new, "the scheduler".to_owned())?;
        Ok((self.shared.ticket_of(&row, None)?, record))
    }

    /// A ticket for everything, that leads to `host`.
    ///
    /// # Errors
    ///
    /// The system has no randomness to give.
    pub fn admin_ticket(&mut self, host: &str) -> Result<Ticket, SchedulerError> {
        let ticket = self.ticket(Role::Admin, Role::Admin.as_str(), MAX_TICKET)?;
        Ok(Ticket { host: host.to_owned(), ..ticket })
    }

    /// A handle to end it with.
    pub fn handle(&self) -> Handle {
        Handle { ending: self.shared.ending.clone() }
    }

    /// Serves until [`Handle::stop`], [`Handle::shutdown`], or an admin, ends it.
    ///
    /// # Errors
    ///
    /// None at present: what goes wrong while it runs is logged, and told to whom it concerns.
    pub async fn run(self) -> Result<(), SchedulerError> {
        let Self { endpoint, shared, owner, provisioner, errors, http, state } = self;
        let mut ending = shared.ending.subscribe();
        // Ends what is in it when this future is dropped.
        let mut parts = JoinSet::new();
        parts.spawn(owner.run());
        parts.spawn(cluster::run(provisioner, Arc::clone(&shared)));
        parts.spawn(gone::watch(errors, Arc::clone(&shared)));
        parts.spawn(listener::run(endpoint.clone(), Arc::clone(&shared)));
        if let Some(http) = http {
            parts.spawn(http.run());
        }
        tokio::select! {
            // The sender is in `shared`.
            _ = ending.wait_for(Option::is_some) => {}
            // Neither ends by itself.
            Some(Err(error)) = parts.join_next() => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
        let for_good = *ending.borrow() != Some(Ending::Stop);
        tracing::info!(for_good, "shutting down");
        if timeout(FLUSH, shared.farm.stop(false)).await.is_err() {
            tracing::warn!("not everything could be stored in time; the workers have it");
        }
        if for_good && timeout(WORKERS_LEAVE, shared.farm.stop(true)).await.is_err() {
            tracing::warn!("workers did not leave in time");
        }
        if for_good {
            endpoint.close(close::SHUTDOWN.into(), b"the farm is going down");
        } else {
            endpoint.close(close::RESTART.into(), b"the scheduler stops; it is expected back");
        }
        // Those that do not hear of it find out by their idle time-out.
        let _ = timeout(PEERS_LEARN, endpoint.wait_idle()).await;
        parts.shutdown().await;
        drop(state);
        tracing::info!("stopped");
        Ok(())
    }
}

/// Starts workers on this host: of the program that this process is of.
fn local_provider(options: &Options, state: &StateDir) -> Result<Local, SchedulerError> {
    let folder = state.join("workers");
    let failed = |source| SchedulerError::State { path: folder.clone(), source };
    let program = std::env::current_exe().map_err(failed)?;
    Local::new(options.config.provider.local.clone(), folder.clone(), program)
        .map_err(|error| failed(std::io::Error::other(error)))
}

/// How nodes come by the program.
fn program(options: &Options, http: Option<&Http>) -> Program {
    let Some(http) = http else { return Program::default() };
    let (sha256, size) = http.program();
    let (host, port) = (options.ticket_host(None), http.local_addr().port());
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Program { sha256: sha256.to_owned(), size, urls: vec![format!("http://{host}:{port}/worker/{sha256}")] }
}

fn bind(
    address: SocketAddr,
    config: quinn::ServerConfig,
    reset_key: &[u8],
) -> Result<(Endpoint, ErrorQueue), SchedulerError> {
    let bind = || {
        let socket = transport::socket(address)?;
        let (socket, errors) = gone::listen(socket)?;
        let endpoint = Endpoint::new_with_abstract_socket(
            transport::endpoint_config_with(reset_key),
            Some(config),
            socket,
            Arc::new(quinn::TokioRuntime),
        )?;
        Ok((endpoint, errors))
    };
    bind().map_err(listen_error(address))
}

fn listen_error(address: SocketAddr) -> impl FnOnce(std::io::Error) -> SchedulerError {
    move |source| SchedulerError::Listen { address, source }
}
