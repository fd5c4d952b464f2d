//! Features -> kNN, linear probe, dimension diagnostics.
