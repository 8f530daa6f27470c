//! The script is run as nodes run it, against a server that is a few lines long, with nothing but chosen programs on
//! PATH.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use super::super::super::config::tests::spec;
use super::super::super::{Order, Program};
use super::*;

/// What every node has, next to a shell.
const BASE: [&str; 12] = ["id", "mkdir", "chmod", "mv", "rm", "touch", "df", "find", "uname", "cat", "sleep", "env"];

/// A worker that says what it got.
const WORKER: &str = r#"#!/bin/sh
if [ "$1" = --version ]; then echo farm 1.0; exit; fi
echo "args: $*"
echo "ticket: $FARM_TICKET"
echo "report: $FARM_REPORT"
echo "pid: $$"
env | while read -r line; do case $line in FARM_HOME=* | FARM_CACHE=* | TMPDIR=* | XDG_*) echo "$line" ;; esac; done
"#;

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Serves one file and keeps what is posted. Its thread ends with the process.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Server {
    fn start(file: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let ours = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut head = Vec::new();
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if line.trim().is_empty() {
                        break;
                    }
                    head.push(line.trim().to_owned());
                }
                let length =
                    head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).unwrap();
                let request = head.first().map_or("", |line| line.rsplit_once(' ').unwrap().0).to_owned();
                let body = String::from_utf8(body).unwrap();
                ours.requests.lock().unwrap().push((request.clone(), body));
                let (status, file) =
                    if request.starts_with("GET /worker/") { ("200 OK", file) } else { ("204 No Content", &[][..]) };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.len());
                let stream = reader.get_mut();
                // A client may have had enough.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(file));
            }
        });
        server
    }

    fn url(&self, sha256: &str) -> String {
        format!("http://{}/worker/{sha256}", self.address)
    }

    fn requests(&self) -> Vec<(String, String)> {
        self.requests.lock().unwrap().clone()
    }

    /// What was reported, and of what.
    fn reports(&self) -> Vec<(String, String)> {
        let posts = self
            .requests()
            .into_iter()
            .filter_map(|(request, body)| Some((request.strip_prefix("POST ")?.to_owned(), body)));
        posts.collect()
    }
}

/// A node of a cluster.
struct Node {
    folder: tempfile::TempDir,
    tools: Vec<&'static str>,
    shell: PathBuf,
}

fn which(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/bin", "/bin", "/usr/local/bin"].iter().map(Path::new);
    folders.map(|folder| folder.join(program)).find(|path| path.exists())
}

impl Node {
    fn new(tools: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for made in ["bin", "scratch"] {
            fs::create_dir(folder.path().join(made)).unwrap();
        }
        let node = Self { folder, tools: tools.to_vec(), shell: which("sh").unwrap() };
        for tool in BASE.iter().chain(tools).chain(&["sh"]) {
            symlink(which(tool).unwrap(), node.bin().join(tool)).unwrap();
        }
        node
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    /// The folder of farm's in its scratch.
    fn ours(&self) -> PathBuf {
        self.scratch().join(format!("farm-worker-{}", rustix::process::geteuid().as_raw()))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.ours()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.shell);
        let path = self.folder.path().join(format!("script-{}", super::super::super::random_base()));
        fs::write(&path, script).unwrap();
        command.arg(path).env_clear().env("PATH", self.bin()).env("TMPDIR", self.scratch());
        command.env("FARM_TICKET", "farm://secret").env("SLURM_JOB_ID", "17").env("SLURMD_NODENAME", "n1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, script: &str) -> Ran {
        Ran::of(self.command(script).output().unwrap())
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    error: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), error: text(output.stderr) }
    }
}

fn order(urls: Vec<String>) -> Order {
    let program = Program { sha256: sha256(WORKER.as_bytes()), size: WORKER.len() as u64, urls };
    let (farm, base) = ("0123456789".to_owned(), "abc".to_owned());
    Order { farm, spec: spec("cms"), base, count: 1, ticket: "farm://secret".to_owned(), program }
}

fn script_with(order: &Order, prologue: Option<&str>) -> String {
    Script { order, spec: &order.spec, prologue }.text()
}

fn script(server: &Server) -> String {
    script_with(&order(vec![server.url(&sha256(WORKER.as_bytes()))]), None)
}

#[test]
fn each_shell_can_read_it() {
    let mut wide = order(vec!["http://h:1/worker/ab".to_owned()]);
    let narrow = script_with(&wide, Some("module load \"it's\""));
    wide.spec.nodes = 3;
    for script in [narrow, script_with(&wide, Some("echo it\\'s")), script_with(&order(Vec::new()), None)] {
        for shell in ["sh", "dash", "bash", "busybox"] {
            let Some(path) = which(shell) else { continue };
            let mut command = Command::new(path);
            command.args((shell == "busybox").then_some("sh")).args(["-n", "-c", &script]);
            let ran = Ran::of(command.output().unwrap());
            assert_eq!((ran.code, ran.error.as_str()), (Some(0), ""), "{shell}:\n{script}");
        }
        assert!(!script.contains("secret"));
    }
}

#[test]
fn each_downloader_will_do_and_so_will_each_of_the_checkers() {
    for tools in [&["curl", "sha256sum"][..], &["wget", "shasum", "perl"], &["python3"], &["curl", "openssl"]] {
        if tools.iter().any(|tool| which(tool).is_none()) {
            // Those that are there have been tried.
            continue;
        }
        let (node, server) = (Node::new(tools), Server::start(WORKER.as_bytes()));
        let ran = node.run(&script(&server));
        assert_eq!(ran.code, Some(0), "{:?}: {ran:?}", node.tools);
        assert!(ran.out.contains("args: worker --name abc-0 --slots 2 --scratch "), "{ran:?}");
        assert!(ran.out.contains("ticket: farm://secret\n"), "{ran:?}");
        assert!(ran.out.contains(&format!("report: http://{}/failed/abc-0\n", server.address)), "{ran:?}");
        assert_eq!(server.reports(), []);
        // The shell has become the worker, and everything is below its own folder.
        let pid = ran.out.lines().find_map(|line| line.strip_prefix("pid: ")).unwrap();
        let job = node.ours().join(format!("job-17-{pid}"));
        for name in ["FARM_HOME", "FARM_CACHE", "TMPDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
            assert!(ran.out.contains(&format!("{name}={}", job.display())), "{name}: {ran:?}");
        }
        assert_eq!(fs::metadata(node.ours()).unwrap().permissions().mode() & 0o777, 0o700);
        // This worker has not removed its folder: the next one does. The program is there already.
        let before = server.requests().len();
        let again = node.run(&script(&server));
        assert_eq!((again.code, server.requests().len()), (Some(0), before), "{again:?}");
        let names = node.names();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(!job.exists() && names[1] == format!("program-{}", sha256(WORKER.as_bytes())), "{names:?}");
    }
}

#[test]
fn of_several_addresses_the_first_that_has_it_is_taken() {
    let (other, right) = (Server::start(b"something else"), Server::start(WORKER.as_bytes()));
    let digest = sha256(WORKER.as_bytes());
    let nobody = format!("http://127.0.0.1:9/worker/{digest}");
    let script = script_with(&order(vec![nobody, other.url(&digest), right.url(&digest)]), None);
    let node = Node::new(&["curl", "sha256sum"]);
    let ran = node.run(&script);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!((other.requests().len(), right.requests().len()), (1, 1));
}

#[test]
fn what_is_damaged_is_fetched_again() {
    let (node, server) = (Node::new(&["curl", "sha256sum"]), Server::start(WORKER.as_bytes()));
    fs::create_dir(node.ours()).unwrap();
    let program = node.ours().join(format!("program-{}", sha256(WORKER.as_bytes())));
    fs::write(&program, "half of i").unwrap();
    let ran = node.run(&script(&server));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(fs::read_to_string(program).unwrap(), WORKER);
}

#[test]
fn two_jobs_on_a_node_at_once_do_not_disturb_each_other() {
    let (node, server) = (Node::new(&["curl", "sha256sum"]), Server::start(WORKER.as_bytes()));
    let script = script(&server);
    let jobs: Vec<_> = (0..6)
        .map(|number| {
            let mut command = node.command(&script);
            command.env("SLURM_ARRAY_TASK_ID", number.to_string()).spawn().unwrap()
        })
        .collect();
    for (number, job) in jobs.into_iter().enumerate() {
        let ran = Ran::of(job.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains(&format!("--name abc-{number} ")), "{ran:?}");
    }
    assert!(!node.names().iter().any(|name| name.starts_with("part-")), "{:?}", node.names());
}

/// What the script says, on stderr and to the scheduler.
fn failure(node: &Node, script: &str, server: &Server) -> String {
    let ran = node.run(script);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let report = server.reports().pop();
    if node.tools.iter().any(|tool| ["curl", "wget", "python3"].contains(tool)) {
        let (path, text) = report.expect("a report");
        assert_eq!(path, "/failed/abc-0");
        assert!(text.starts_with("n1: ") && ran.error.contains(text.trim_start_matches("n1: ")), "{text} / {ran:?}");
    } else {
        assert_eq!(report, None);
    }
    assert!(!ran.error.contains("secret"), "{ran:?}");
    ran.error
}

#[test]
fn what_is_wrong_is_told() {
    let right = Server::start(WORKER.as_bytes());
    let why = failure(&Node::new(&["sha256sum"]), &script(&right), &right);
    assert!(why.contains("no curl, wget or python3"), "{why}");

    let why = failure(&Node::new(&["curl"]), &script(&right), &right);
    assert!(why.contains("no sha256sum, shasum, openssl or python3"), "{why}");

    for tool in ["curl", "wget", "python3"] {
        if which(tool).is_none() {
            continue;
        }
        let wrong = Server::start(b"another program");
        let nobody = "http://127.0.0.1:9/worker/ab".to_owned();
        let script = script_with(&order(vec![nobody.clone(), wrong.url("ab")]), None);
        let why = failure(&Node::new(&[tool, "sha256sum"]), &script, &wrong);
        let expected = format!("its SHA-256 is {}", sha256(b"another program"));
        assert!(why.contains(&expected) && why.contains(&wrong.address.to_string()), "{why}");
        assert!(why.contains(&format!("{tool} cannot fetch {nobody}: ")), "{why}");
        assert!(why.to_lowercase().contains("refused") || why.contains("connect to server"), "{why}");
    }
}

#[test]
fn a_node_that_is_not_fit_is_told() {
    let tools = ["curl", "sha256sum"];
    let libc = b"#!/bin/sh\necho \"$0: /lib64/libc.so.6: version 'GLIBC_2.34' not found\" >&2; exit 1\n";
    let server = Server::start(libc);
    let mut foreign = order(vec![server.url("ab")]);
    foreign.program.sha256 = sha256(libc);
    let why = failure(&Node::new(&tools), &script_with(&foreign, None), &server);
    assert!(why.contains("does not run on this node: ") && why.contains("version 'GLIBC_2.34' not found"), "{why}");

    let server = Server::start(WORKER.as_bytes());
    let node = Node::new(&tools);
    fs::remove_file(node.bin().join("df")).unwrap();
    fs::write(node.bin().join("df"), "#!/bin/sh\necho Filesystem; echo tmpfs 100 100 0 100% /tmp\n").unwrap();
    fs::set_permissions(node.bin().join("df"), fs::Permissions::from_mode(0o755)).unwrap();
    let why = failure(&node, &script(&server), &server);
    assert!(why.contains("is full: 0 KiB are free, and the program has 1"), "{why}");

    let node = Node::new(&tools);
    symlink("/tmp", node.ours()).unwrap();
    let why = failure(&node, &script(&server), &server);
    assert!(why.contains("is somebody else's"), "{why}");

    let node = Node::new(&tools);
    fs::write(node.ours(), "").unwrap();
    let why = failure(&node, &script(&server), &server);
    assert!(why.contains("cannot be written to"), "{why}");

    let script = format!("unset FARM_TICKET\n{}", script(&server));
    let why = failure(&Node::new(&tools), &script, &server);
    assert!(why.contains("got no ticket"), "{why}");
}

#[test]
fn the_commands_of_a_site_come_first_whatever_they_set() {
    let (node, server) = (Node::new(&["curl", "sha256sum"]), Server::start(WORKER.as_bytes()));
    let mut order = order(vec![server.url("ab")]);
    order.spec.env = vec![("SITE".to_owned(), "it's $HOME".to_owned())];
    let odd = "test \"$SITE\" = 'it'\\''s $HOME' || exit 9\nset -ef; IFS=x; : \"$not_set\"; echo prologue";
    let ran = node.run(&script_with(&order, Some(odd)));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.starts_with("prologue\nargs: worker "), "{ran:?}");

    let ran = node.run(&script_with(&order, Some("exit 4")));
    assert_eq!(ran.code, Some(4), "{ran:?}");
    let (_, report) = server.reports().pop().unwrap();
    assert_eq!(report, "n1: the prologue ended the script, with 4");
}

#[test]
fn an_installed_program_is_not_fetched() {
    let (node, server) = (Node::new(&["curl"]), Server::start(WORKER.as_bytes()));
    let program = node.folder.path().join("installed it");
    fs::write(&program, WORKER).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut order = order(vec![server.url("ab")]);
    order.spec.worker_binary = Some(program.display().to_string());
    let ran = node.run(&script_with(&order, None));
    assert_eq!((ran.code, server.requests().len()), (Some(0), 0), "{ran:?}");
    order.program.urls.clear();
    let ran = node.run(&script_with(&order, None));
    assert!(ran.code == Some(0) && ran.out.contains("report: \n"), "{ran:?}");
    order.spec.worker_binary = Some("/nowhere/farm".to_owned());
    let ran = node.run(&script_with(&order, None));
    assert!(ran.code == Some(1) && ran.error.contains("/nowhere/farm does not run on this node"), "{ran:?}");
}

#[test]
fn on_several_nodes_srun_starts_what_one_node_would_run() {
    let (node, server) = (Node::new(&["curl", "sha256sum"]), Server::start(WORKER.as_bytes()));
    let mut order = order(vec![server.url("ab")]);
    order.spec.nodes = 2;
    let srun = r#"#!/bin/sh
echo "srun $1 $2 $3 $4"
while [ "${1#--}" != "$1" ]; do shift; done
SLURM_PROCID=1; export SLURM_PROCID
exec "$@"
"#;
    fs::write(node.bin().join("srun"), srun).unwrap();
    fs::set_permissions(node.bin().join("srun"), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = node.run(&script_with(&order, Some("echo \"it's $SLURM_PROCID\"")));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let expected =
        "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=2\nit's 1\nargs: worker --name abc-0-1 ";
    assert!(ran.out.starts_with(expected), "{ran:?}");
}
