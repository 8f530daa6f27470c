//! What one core can do: fresh instances a second.

use std::path::Path;
use std::time::{Duration, Instant};

use farm_proto::ids::JobId;
use farm_proto::outcome::Failure;

use super::{Sandbox, SandboxSpec, Task};

/// Calls one function with one argument again and again, each time in a fresh instance, and gives calls a second.
///
/// The thread should have [`super::THREAD_STACK_SIZE`] of stack, as a slot's has.
///
/// # Errors
///
/// The sandbox does not open, or a call fails.
pub fn instances_per_second(
    artefact: &Path,
    spec: SandboxSpec,
    argument: &[u8],
    duration: Duration,
) -> Result<f64, Failure> {
    /// Between two looks at the clock.
    const BATCH: u64 = 64;
    let mut sandbox = Sandbox::open(artefact, spec)?;
    let mut result = Vec::new();
    let mut index = 0_u64;
    let mut batch = |sandbox: &mut Sandbox| {
        for _ in 0..BATCH {
            result.clear();
            let ended = sandbox.call(Task { job: JobId(1), index, attempt: 0, argument }, &mut result);
            if let Some(failure) = ended.failure {
                return Err(failure);
            }
            index += 1;
        }
        Ok(())
    };
    // The first instances fill the pool.
    batch(&mut sandbox)?;
    let start = Instant::now();
    let mut calls = 0_u64;
    loop {
        batch(&mut sandbox)?;
        calls += BATCH;
        let elapsed = start.elapsed();
        if elapsed >= duration {
            return Ok(calls as f64 / elapsed.as_secs_f64());
        }
    }
}
