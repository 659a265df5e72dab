//! Actions as types, for the signatures of handlers.

use astrfleet_core::policy::Action;

/// An action as a type.
pub trait May: Send + Sync + 'static {
    /// Which.
    const ACTION: Action;
}

macro_rules! may {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("[`Action::", stringify!($name), "`]")]
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl May for $name {
                const ACTION: Action = Action::$name;
            }
        )*
    };
}

may! {
    TenantCreate TenantList TenantRead TenantUpdate TenantSuspend TenantResume TenantDelete UserManage
    MemberRead MemberManage InvitationManage ApiKeyManage AuditRead UsageRead LimitsRead
    InstanceRead InstanceOperate InstanceConfigure InstanceOpen ChannelRead ChannelManage
    SessionRead SessionWrite MessageRead MessageWrite AttachmentRead AttachmentWrite BlocklistManage EventRead
    WebhookManage EndUserErase TenantExport TenantErase
    FleetRead PlatformAuditRead
}
