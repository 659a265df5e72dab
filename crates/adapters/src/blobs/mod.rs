//! Backends of the port [`astrfleet_core::ports::Blobs`].

mod folder;
mod key;

pub use folder::FolderBlobs;
