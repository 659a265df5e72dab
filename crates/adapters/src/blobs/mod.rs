//! Backends of the port [`astrfleet_core::ports::Blobs`].

mod folder;
mod key;
mod s3;

pub use folder::FolderBlobs;
pub use s3::{Encryption, S3Blobs, S3Settings};
