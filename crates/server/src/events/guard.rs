//! Ends a stream whose reader may not read it any more.

use std::{net::IpAddr, sync::Arc, time::Duration};

use astrfleet_core::{Error, policy::authorise};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    app::App,
    extract::{InTenant, may::May},
};

/// How often is looked. What was changed in another process is known by then, over the bus.
const PERIOD: Duration = Duration::from_secs(2);

/// Who reads, and with what they have proven it.
pub(super) struct Reader<A> {
    pub(super) of: InTenant<A>,
    pub(super) credential: SecretString,
    pub(super) peer: Option<IpAddr>,
}

/// Why a stream ends.
pub(super) enum End {
    /// Its reader may not read it any more.
    Refused(Error),
    /// This process ends: another one goes on.
    Stopping,
}

impl<A: May> Reader<A> {
    /// Whether they may, as it is now.
    async fn check(&self, app: &App) -> Result<(), Error> {
        let caller = app.auth.authenticate(self.credential.expose_secret(), self.peer).await?;
        let tenant = app.tenant.resolve(self.of.tenant.id.as_str()).await?;
        tenant.must_be_served()?;
        authorise(&app.auth.standing(&caller, &tenant.id).await?, A::ACTION)
    }

    /// Waits until they may not.
    pub(super) async fn until_refused(self: Arc<Self>, app: App) -> End {
        loop {
            tokio::select! {
                () = app.stop.cancelled() => return End::Stopping,
                () = tokio::time::sleep(PERIOD) => {}
            }
            match self.check(&app).await {
                // Whether they may cannot be found out: they go on until it can.
                Ok(()) | Err(Error::Unavailable { .. } | Error::Internal { .. }) => {}
                Err(error) => return End::Refused(error),
            }
        }
    }
}
