//! Dataset files -> verified samples -> batches of bytes.
