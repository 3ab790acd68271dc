//! What the fuzz targets do with their bytes, apart from libFuzzer, so that plain tests replay the corpora with the
//! same functions.

pub mod model;
pub mod sync;
