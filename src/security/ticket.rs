//! Random ids that let in who holds them: a browser has the id, signed; at rest is only its digest, so that who reads
//! a table or a cache can't be let in by it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::{Digest, Sha256};

use crate::settings::Secret;

/// Random bytes of an id: not guessed, however many there are.
const ID_BYTES: usize = 32;
const MAC_BYTES: usize = 32;

/// A random id of 256 bits.
#[derive(Clone)]
pub struct Ticket(Secret<[u8; ID_BYTES]>);

/// What stands in tables and caches instead of a ticket.
pub type TicketDigest = [u8; 32];

/// Signs tickets, so that one that nobody gave out is refused without being looked up.
#[derive(Clone)]
pub struct TicketSigner {
    key: Secret<[u8; 32]>,
}

impl Ticket {
    /// A new one.
    pub fn random() -> Ticket {
        let mut id = [0u8; ID_BYTES];
        rand::rng().fill_bytes(&mut id);
        Ticket(Secret::new(id))
    }

    /// What is stored of it.
    pub fn digest(&self) -> TicketDigest {
        Sha256::digest(self.0.expose()).into()
    }

    /// The id as text that can stand in an URL. To be seen by its holder alone.
    pub fn expose(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.expose())
    }

    /// The ticket that [`Ticket::expose`] showed; `None` for anything else.
    pub fn parse(text: &str) -> Option<Ticket> {
        let id: [u8; ID_BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        Some(Ticket(Secret::new(id)))
    }
}

impl TicketSigner {
    pub fn new(key: Secret<[u8; 32]>) -> TicketSigner {
        TicketSigner { key }
    }

    /// The ticket with its signature, for `purpose` alone.
    pub fn sign(&self, purpose: &str, ticket: &Ticket) -> String {
        let mac = self.mac(purpose, ticket).finalize().into_bytes();
        format!("{}.{}", ticket.expose(), URL_SAFE_NO_PAD.encode(mac))
    }

    /// The ticket that was signed for `purpose`; `None` for anything else. Constant in time.
    pub fn verify(&self, purpose: &str, signed: &str) -> Option<Ticket> {
        let (ticket, mac) = signed.split_once('.')?;
        let ticket = Ticket::parse(ticket)?;
        let mac: [u8; MAC_BYTES] = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        self.mac(purpose, &ticket).verify_slice(&mac).ok().map(|()| ticket)
    }

    fn mac(&self, purpose: &str, ticket: &Ticket) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(self.key.expose());
        // An HMAC takes keys of any length.
        let mut mac = mac.expect("a key of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(ticket.0.expose());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(byte: u8) -> TicketSigner {
        TicketSigner::new(Secret::new([byte; 32]))
    }

    #[test]
    fn a_signed_ticket_is_known_again_for_its_purpose_alone() {
        let ticket = Ticket::random();
        let signed = signer(1).sign("session", &ticket);
        assert_eq!(signer(1).verify("session", &signed).unwrap().digest(), ticket.digest());
        assert!(signer(1).verify("login", &signed).is_none());
        assert!(signer(2).verify("session", &signed).is_none());
    }

    #[test]
    fn anything_else_is_refused() {
        let signed = signer(1).sign("session", &Ticket::random());
        let other = signer(1).sign("session", &Ticket::random());
        let (id, _) = signed.split_once('.').unwrap();
        let (_, mac) = other.split_once('.').unwrap();
        for wrong in ["", ".", id, &format!("{id}."), &format!("{id}.{mac}"), &format!("{signed}A"), "x.y"] {
            assert!(signer(1).verify("session", wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn no_two_tickets_are_alike() {
        assert_ne!(Ticket::random().digest(), Ticket::random().digest());
    }
}
