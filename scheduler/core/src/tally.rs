//! Counters by task.
