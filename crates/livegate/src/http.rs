//! HTTP/1.1 wire format.
