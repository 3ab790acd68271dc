//! What the fuzz targets begin from and what they once found.

mod replay;
mod seeds;
