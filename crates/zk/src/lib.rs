//! ZooKeeper wire codec and client session.
