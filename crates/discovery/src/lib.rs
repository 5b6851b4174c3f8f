//! Find, register and balance service instances.
