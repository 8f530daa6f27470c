//! Signals in the processes that an agent starts.

/// From here on, SIGTERM and SIGUSR1 do nothing to this process.
///
/// SLURM sends them to every process of a job, long before it kills them all. What they ask for is the agent's to
/// arrange: it lets the tasks that run come to their end, and ends these processes in time.
#[expect(unsafe_code, reason = "no safe crate at hand can ignore a signal")]
pub(crate) fn leave_to_agent() {
    for signal in [libc::SIGTERM, libc::SIGUSR1] {
        // SAFETY: to ignore a signal installs no code. It fails only for numbers that are no signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
