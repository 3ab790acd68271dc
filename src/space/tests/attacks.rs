//! Attacks on what membership promises, each through the paths that operations really come by.
