//! Composition: config, algorithm, checkpoint, run log.
