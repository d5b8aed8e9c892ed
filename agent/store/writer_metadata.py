# SPDX-License-Identifier: Apache-2.0
"""The metadata service: the store names one at most, for all hosts."""

from __future__ import annotations

from agent.core.model import MetadataService
from agent.store import service_values, validate
from agent.store.document import MetadataServiceFields, Unset, or_default
from agent.store.records import MetadataServiceRecord
from agent.store.validate import Subject
from agent.store.validate_services import value
from agent.store.writer_records import metadata_service_record
from agent.store.writer_session import Column, Session, keep_our_ids
from agent.store.writer_view import Row, View, scalar

SUBJECT = Subject("metadata_service", "")
TABLE = "Metadata_Service"
_FILES = ("secret_file", "ca_file", "client_cert_file", "client_key_file")
_TLS_ONLY = ("ca_file", "client_cert_file", "client_key_file")
_DEFAULTS = MetadataService(url="")


def find(view: View) -> Row | None:
    """Return the row of the metadata service, None if there is none."""
    return next(iter(view.tables[TABLE].rows.values()), None)


def present(view: View) -> MetadataServiceRecord | None:
    """Return the metadata service, None if there is none."""
    row = find(view)
    return None if row is None else metadata_service_record(row)


def named(session: Session, fields: MetadataServiceFields) -> MetadataServiceRecord:
    """Name the metadata service as ``put`` does and return it."""
    return metadata_service_record(put(session, SUBJECT, fields))


def unset(session: Session) -> MetadataServiceRecord | None:
    """Name no metadata service any more; return the one that there was."""
    record = present(session)
    remove(session)
    return record


def put(session: Session, subject: Subject, fields: MetadataServiceFields) -> Row:
    """Name the metadata service, or change the given fields of the one that is named.

    What is not given stays, or has its default in a new one.
    """
    row = find(session)
    wanted = _wanted(subject, row, fields)
    ids = validate.external_ids(subject, or_default(fields.external_ids, {}))
    if row is None:
        row = session.insert(TABLE, None, external_ids=ids, **wanted)
        _touch_hosts(session)
        return row
    if row._data is not None:
        session.verify(row, *wanted)  # they must fit each other
    if not isinstance(fields.external_ids, Unset):
        session.update(row, external_ids=keep_our_ids(row, ids))
    if session.update(row, **wanted):
        _touch_hosts(session)
    return row


def remove(session: Session) -> None:
    """Name no metadata service any more."""
    row = find(session)
    if row is not None:
        session.delete(row)
        _touch_hosts(session)


def _touch_hosts(session: Session) -> None:
    """Note whom it concerns: every host, and the ports that are not served from the store."""
    session.touched_hosts.update(scalar(host, "name") for host in session.rows("Host"))
    session.touched_ports.update(str(port.uuid) for port in session.rows("Port") if not port.metadata)


def _wanted(subject: Subject, row: Row | None, fields: MetadataServiceFields) -> dict[str, Column]:
    def before(column: str) -> str:
        return "" if row is None else getattr(row, column)

    files = {
        column: value(
            subject, column, service_values.file_path, or_default(getattr(fields, column), before(column)) or ""
        )
        for column in _FILES
    }
    url = or_default(fields.url, before("url"))
    if not url:
        raise subject.error("url is required (http://HOST[:PORT] or https://HOST[:PORT])")
    url = value(subject, "url", service_values.service_url, url)
    insecure = or_default(fields.insecure, _DEFAULTS.insecure if row is None else row.insecure)
    _check_files(subject, url, insecure, files)
    timeout = or_default(fields.timeout, _DEFAULTS.timeout if row is None else row.timeout)
    return {
        **files,
        "url": url,
        "insecure": insecure,
        "timeout": value(subject, "timeout", service_values.timeout, timeout),
    }


def _check_files(subject: Subject, url: str, insecure: bool, files: dict[str, str]) -> None:
    if not files["secret_file"]:
        raise subject.error("secret_file is required: Nova answers only who signs with its shared secret")
    if bool(files["client_cert_file"]) is not bool(files["client_key_file"]):
        missing = "client_key_file" if files["client_cert_file"] else "client_cert_file"
        raise subject.error(f"{missing} is missing: a certificate needs its key, and a key its certificate")
    if service_values.is_tls(url):
        return
    useless = [column for column in _TLS_ONLY if files[column]] + (["insecure"] if insecure else [])
    if useless:
        raise subject.error(f"{useless[0]} goes with https only, the url is {url}")
