pub(crate) mod http1;
