//! Failover up to the commit point, and the bounds on it.
