//! Pooled buffers.
