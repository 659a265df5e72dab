//! What is ours on a bot's host: a link becomes a cookie, the script that signs the bot's pages in, and the way out.

use axum::{
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    admit::{self, Asked, Refused},
    pages,
};
use crate::{app::App, extract::take_anonymous};

/// Tells the bot's own pages that somebody is signed in, in which language they read (the pages' own choice would be
/// Chinese for all), and that whoever is sent to its sign-in has signed out.
const SESSION: &str = "\
localStorage.setItem('token', 'signed-in-by-the-platform');
if (!localStorage.getItem('astrbot-locale')) {
  const known = { en: 'en-US', ja: 'ja-JP', ru: 'ru-RU', zh: 'zh-CN' };
  const chosen = navigator.languages.map((language) => known[language.slice(0, 2)]).find(Boolean);
  localStorage.setItem('astrbot-locale', chosen ?? 'en-US');
}
if (location.hash.startsWith('#/auth/')) location.hash = '#/welcome';
addEventListener('hashchange', () => {
  if (location.hash.startsWith('#/auth/')) location.replace('/_astrfleet/leave');
});
";

/// Answers what comes after `/_astrfleet/`.
pub async fn answer(app: &App, asked: Asked, own: &str) -> Response {
    let answered = match (&asked.method, own) {
        (&Method::GET, "open") => open(app, &asked).await,
        (&Method::GET, "session.js") => session(app, &asked).await,
        (&Method::GET, "leave") => leave(app, &asked),
        _ => Err(Refused::page(StatusCode::NOT_FOUND, pages::nothing_here())),
    };
    answered.unwrap_or_else(IntoResponse::into_response)
}

/// The one thing that may come from another site: a link that was just given out. The answer is a page of this host
/// which goes on to the dashboard: a redirect would still count as coming from the other site, and the new cookie would
/// not be sent along.
async fn open(app: &App, asked: &Asked) -> Result<Response, Refused> {
    if take_anonymous(app, Some(asked.visited.ip)).is_err() {
        return Err(Refused::page(StatusCode::TOO_MANY_REQUESTS, pages::too_many()));
    }
    let tenant = admit::tenant(app, &asked.visited).await?;
    let dashboards = &app.gateway.dashboards;
    let secret = asked.uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("ticket=")));
    let ticket = secret.and_then(|secret| dashboards.tickets.redeem(secret, &tenant.id, app.clock.now()));
    let Some(ticket) = ticket else { return Err(Refused::page(StatusCode::GONE, pages::used())) };
    let cookie = dashboards.cookies.set(ticket, app.clock.now());
    let mut response = pages::respond(StatusCode::OK, pages::welcome(&tenant.display_name));
    set_cookie(&mut response, &cookie);
    Ok(response)
}

/// The script that signs somebody in, under their name. The token in it is none: the gateway replaces it.
async fn session(app: &App, asked: &Asked) -> Result<Response, Refused> {
    admit::must_be_of_this_host(app, asked)?;
    let tenant = admit::tenant(app, &asked.visited).await?;
    let person = admit::signed_in(app, asked, &tenant).await?;
    let name = serde_json::Value::from(&*person.name);
    let script = format!("localStorage.setItem('user', {name});\n{SESSION}");
    Ok(([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], script).into_response())
}

/// Takes the cookie away.
fn leave(app: &App, asked: &Asked) -> Result<Response, Refused> {
    admit::must_be_of_this_host(app, asked)?;
    let mut response = pages::respond(StatusCode::OK, pages::signed_out());
    set_cookie(&mut response, &app.gateway.dashboards.cookies.clear());
    Ok(response)
}

fn set_cookie(response: &mut Response, cookie: &str) {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}
