"""Certificates of the listeners."""

import ssl

from robodyne_rt.settings import ConfigError


def context(section: str, cert: str, key: str, client_ca: str = "") -> ssl.SSLContext | None:
    """Return what a listener needs to speak TLS; None where the settings name no certificate.

    Args:
        section: of the settings, for the error.
        client_ca: who may sign the certificates of devices; empty for nobody.
    Raises:
        ConfigError: a file cannot be read, or is not what it should be.
    """
    if not cert:
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        made.load_cert_chain(cert, key)
        if client_ca:
            made.load_verify_locations(client_ca)
            made.verify_mode = ssl.CERT_OPTIONAL  # who bears none proves a key
    except (OSError, ssl.SSLError) as error:
        named = f"tls_cert {cert}, tls_key {key}" + (f", tls_client_ca {client_ca}" if client_ca else "")
        raise ConfigError(f"[{section}] {named}: {error}") from error
    return made
