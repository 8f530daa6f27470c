//! Any bytes for what happens to a scheduler.
//!
//! The bytes are read as operations. A driver that keeps to its part of the contract, as the shell does, tells a real
//! core of them; users and workers keep to nothing. After each operation the core's invariants are checked, and an oracle
//! compares what the core asks to be stored with what it asked for before.

mod driver;
mod operation;
mod oracle;

use arbitrary::{Arbitrary as _, Unstructured};

use self::driver::Driver;
use self::operation::{Operation, Settings};

/// More operations than this find out nothing more, but take longer.
const OPERATIONS: usize = 400;

/// Lets a core go through the operations that the bytes say. Panics if it does what it must not.
pub fn core_operations(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let Ok(settings) = Settings::arbitrary(&mut bytes) else { return };
    let mut driver = Driver::new(&settings);
    for _ in 0..OPERATIONS {
        // Not a `Vec` of them: each element of one is the last with a chance of a half.
        let Ok(operation) = Operation::arbitrary(&mut bytes) else { break };
        if bytes.is_empty() {
            break;
        }
        driver.step(operation);
    }
    driver.end();
}
