//! Files and images that go with messages.

use serde::{Deserialize, Serialize};

use crate::{
    id::{AttachmentId, TenantId},
    time::Timestamp,
};

/// One stored file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Attachment {
    /// `att_…`
    pub id: AttachmentId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The file's name, without any folder.
    pub name: String,
    /// Such as `image/png`.
    pub media_type: String,
    /// In bytes.
    pub size: u64,
    /// SHA-256 of the content, in hex.
    pub sha256: String,
    /// When it was stored.
    pub created_at: Timestamp,
}

impl Attachment {
    /// Where its content lies among the blobs.
    #[must_use]
    pub fn blob_key(&self) -> String {
        blob_key(&self.tenant_id, &self.id)
    }
}

/// Where the content of an attachment lies among the blobs.
#[must_use]
pub fn blob_key(tenant: &TenantId, attachment: &AttachmentId) -> String {
    format!("{tenant}/attachments/{attachment}")
}
