//! See also `conformance`, which holds this store against etcd.
