//! Embeddings -> loss.
