"""HTTP of documents: pushed, changed in access, withdrawn, listed without text, and read by those who may.

Every answer carries the consistency token of what it changed or saw.
"""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from interlock.contracts.documents import AccessList, Origin
from interlock.foundation.clock import rfc3339
from interlock.foundation.control.route import Call, Level, Reply, Route
from interlock.foundation.errors import InterlockError
from interlock.foundation.ids import MalformedIdError, format_id, parse_id
from interlock.retrieval.config import RetrievalConfig
from interlock.retrieval.domain.access import InvalidAclError, acl_json, parse_acl
from interlock.retrieval.domain.paths import InvalidPathError, normal
from interlock.retrieval.domain.types import DocumentState, PutResult, PutStatus
from interlock.retrieval.service.documents import DocumentService
from interlock.retrieval.service.ingest import Incoming
from interlock.retrieval.service.read import DocumentReader
from interlock.retrieval.service.tokens import TOKEN_HEADER, TokenIssuer
from interlock.retrieval.store.ingest.listing import DocumentRow

_PATH: Final = "/v1/retrieval/documents"
WRITE: Final = "retrieval:write"
READ: Final = "retrieval:read"
ADMIN: Final = "retrieval:admin"
_FIRST: Final = UUID(int=0)
_VERSION_MAX: Final = (1 << 63) - 1
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class DocumentItem(msgspec.Struct, forbid_unknown_fields=True):
    """One document of a push: its text, or its bytes in base64."""

    external_id: Annotated[str, msgspec.Meta(min_length=1, max_length=2_048)]
    title: Annotated[str, msgspec.Meta(max_length=2_000)] | None = None
    text: str | None = None
    content_base64: str | None = None
    media_type: Annotated[str, msgspec.Meta(max_length=200)] = "text/plain"
    uri: Annotated[str, msgspec.Meta(max_length=4_096)] = ""
    container: str | None = None
    acl: Any = None
    source_version: int | str | None = None
    observed_at: Moment | None = None
    labels: dict[str, Annotated[str, msgspec.Meta(max_length=500)]] = {}
    retain_until: Moment | None = None


class PushBody(msgspec.Struct, forbid_unknown_fields=True):
    """A push of documents into one source."""

    source: str
    documents: Annotated[list[DocumentItem], msgspec.Meta(min_length=1)]


class AclBody(msgspec.Struct, forbid_unknown_fields=True):
    """Who may read."""

    allow: list[Any] = []
    deny: list[Any] = []
    inherit: bool = False


class ResultView(msgspec.Struct):
    """What became of one document."""

    external_id: str
    id: str | None
    status: str
    code: str | None
    version: int | None
    vector: str | None


class PushView(msgspec.Struct):
    """What became of a push, in its order."""

    results: list[ResultView]
    consistency_token: str


class DocumentView(msgspec.Struct):
    """A document with its text, for who may read it."""

    id: str
    source: str
    external_id: str
    title: str
    uri: str
    media_type: str
    version: int
    labels: dict[str, str]
    text: str
    updated_at: str


class DocumentMeta(msgspec.Struct):
    """A document for who administers its source; never its text."""

    id: str
    source: str
    external_id: str
    title: str
    uri: str
    media_type: str
    state: str
    code: str | None
    version: int
    acl: dict[str, Any] | None
    acl_digest: str | None
    container: str | None
    labels: dict[str, str]
    chunks: int
    bytes: int
    created_at: str
    updated_at: str
    deleted_at: str | None


class DocumentList(msgspec.Struct):
    """A page of documents."""

    data: list[DocumentMeta]
    next_cursor: str | None


class AclView(msgspec.Struct):
    """The list that a document has now."""

    id: str
    acl_digest: str
    consistency_token: str


class DeletedView(msgspec.Struct):
    """A document that is out of every answer."""

    id: str
    state: str
    purge_after: str
    consistency_token: str


class DocumentHandlers:
    """One method a call."""

    def __init__(
        self, service: DocumentService, reader: DocumentReader, issuer: TokenIssuer, config: RetrievalConfig
    ) -> None:
        self._service = service
        self._reader = reader
        self._issuer = issuer
        self._config = config

    async def push(self, call: Call) -> Reply:
        """Store documents; their words are found when this answers."""
        body: PushBody = call.body
        limit = self._config.batch_documents_max
        if len(body.documents) > limit:
            raise InterlockError("invalid_request", f"A push has at most {limit} documents.", detail={"limit": limit})
        source_id = _parsed("src", body.source, "source_not_found")
        refused: dict[int, PutResult] = {}
        good: list[Incoming] = []
        for place, item in enumerate(body.documents):
            found = self._incoming(item)
            if isinstance(found, str):
                refused[place] = PutResult(item.external_id, PutStatus.REJECTED, code=found)
            else:
                good.append(found)
        stored = await self._service.push(call.within, source_id, good)
        rest = iter(stored.results)
        results = [refused[place] if place in refused else next(rest) for place in range(len(body.documents))]
        token, headers = self._token(call, stored.epoch)
        return Reply(body=PushView([_result_view(each) for each in results], token), headers=headers)

    async def listed(self, call: Call) -> Reply:
        """Answer a page of documents without their text."""
        page, query = call.page, call.query
        after = UUID(str(page.after[0])) if page.after else _FIRST
        source_id = _parsed("src", query["source"], "source_not_found") if query.get("source") else None
        state = query.get("state") or None
        if state is not None and state not in set(DocumentState):
            raise InterlockError("invalid_request", "There is no such state.", detail={"field": "state"})
        rows = await self._service.listed(call.within, after, page.limit_plus_one, source_id, state)
        kept, last = page.cut(rows, lambda row: (row.id,))
        return call.listed([_meta_view(each) for each in kept], last)

    async def get(self, call: Call) -> Reply:
        """Answer a document to who may read it; to everybody else it does not exist."""
        document_id = _parsed("doc", call.params["id"], "document_not_found")
        found = await self._reader.document(call.within, document_id, call.query.get("principal") or None)
        document = found.document
        view = DocumentView(
            id=format_id("doc", document.id),
            source=format_id("src", document.source_id),
            external_id=document.external_id,
            title=document.title,
            uri=document.uri,
            media_type=document.media_type,
            version=document.version,
            labels=dict(document.labels),
            text=document.text,
            updated_at=rfc3339(document.updated_us),
        )
        return Reply(body=view, headers=self._token(call, found.epoch)[1])

    async def set_acl(self, call: Call) -> Reply:
        """Let others read a document, from the next statement on."""
        body: AclBody = call.body
        document_id = _parsed("doc", call.params["id"], "document_not_found")
        value = {"allow": body.allow, "deny": body.deny, "inherit": body.inherit}
        try:
            acl = parse_acl(value, self._config.acl_principals_max)
        except InvalidAclError as error:
            raise InterlockError("invalid_acl", f"This is not an access list: {error}.") from error
        digest, epoch = await self._service.set_acl(call.tx, document_id, acl)
        token, headers = self._token(call, epoch)
        return Reply(body=AclView(format_id("doc", document_id), digest.hex(), token), headers=headers)

    async def delete(self, call: Call) -> Reply:
        """Withdraw a document, from the next statement on."""
        document_id = _parsed("doc", call.params["id"], "document_not_found")
        gone = await self._service.delete(call.tx, document_id)
        token, headers = self._token(call, gone.epoch)
        view = DeletedView(format_id("doc", document_id), "deleted", rfc3339(gone.purge_after_us), token)
        return Reply(body=view, headers=headers)

    def _incoming(self, item: DocumentItem) -> Incoming | str:
        """Return a document as it came, or the code of why it is none."""
        if (item.text is None) == (item.content_base64 is None):
            return "invalid_request"
        try:
            content = None if item.content_base64 is None else base64.b64decode(item.content_base64, validate=True)
            container = None
            if item.container is not None:
                container = normal(item.container, self._config.containers_depth_max)
            acl: AccessList | None = None
            if item.acl is not None:
                acl = parse_acl(item.acl, self._config.acl_principals_max)
            version = _version(item.source_version)
        except InvalidAclError:
            return "invalid_acl"
        except (binascii.Error, InvalidPathError, ValueError):
            return "invalid_request"
        if not item.external_id.isprintable() or "\x00" in item.uri:
            return "invalid_request"
        return Incoming(
            external_id=item.external_id,
            title=item.title,
            media_type=item.media_type,
            uri=item.uri,
            origin=Origin.PUSH,
            text=item.text,
            content=content,
            container=container,
            acl=acl,
            source_version=version,
            observed_at_us=_moment_us(item.observed_at),
            labels=item.labels,
            retain_until_us=_moment_us(item.retain_until),
        )

    def _token(self, call: Call, epoch: int) -> tuple[str, dict[str, str]]:
        token = self._issuer.issue(call.within.organization_id, epoch)
        return token, {TOKEN_HEADER: token}


def document_routes(
    service: DocumentService, reader: DocumentReader, issuer: TokenIssuer, config: RetrievalConfig
) -> list[Route]:
    """Return the routes of documents."""
    made = DocumentHandlers(service, reader, issuer, config)
    one, workspace = f"{_PATH}/{{id}}", Level.WORKSPACE
    return [
        # Not a mutation of the kit: a push works in several transactions, and a repeat of it changes nothing.
        Route(
            "POST", _PATH, workspace, made.push, "Store documents in a source.", action=WRITE, body=PushBody,
            answer=PushView, body_bytes_max=config.batch_bytes_max, is_idempotent=True,
            codes=("source_not_found", "ingest_backlog_full", "killed"),
        ),
        Route(
            "GET", _PATH, workspace, made.listed, "Documents without their text.", action=ADMIN, answer=DocumentList,
            query=("limit", "cursor", "source", "state"), codes=("source_not_found",),
        ),
        Route(
            "GET", one, workspace, made.get, "A document with its text, for who may read it.", action=READ,
            answer=DocumentView, query=("principal",),
            codes=("document_not_found", "delegation_denied", "principal_not_found", "killed"),
        ),
        Route(
            "PUT", f"{one}/acl", workspace, made.set_acl, "Let others read a document.", action=WRITE, body=AclBody,
            answer=AclView, is_mutation=True, codes=("document_not_found", "acl_principal_unknown", "invalid_acl"),
        ),
        Route(
            "DELETE", one, workspace, made.delete, "Withdraw a document.", action=WRITE, answer=DeletedView,
            is_mutation=True, codes=("document_not_found",),
        ),
    ]  # fmt: skip


def _parsed(kind: str, text: str, code: str) -> UUID:
    try:
        return parse_id(kind, text)
    except MalformedIdError:
        raise InterlockError(code) from None


def _version(value: int | str | None) -> int | None:
    """Return a version as a number. Raises `ValueError`."""
    if value is None:
        return None
    number = value if isinstance(value, int) else int(value) if value.isascii() and value.isdigit() else -1
    if not 0 <= number <= _VERSION_MAX:
        raise ValueError("a version is a whole number")
    return number


def _moment_us(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000_000)


def _result_view(result: PutResult) -> ResultView:
    is_stored = result.document_id is not None
    vector = "ready" if result.is_vector_ready else "pending"
    return ResultView(
        external_id=result.external_id,
        id=None if result.document_id is None else format_id("doc", result.document_id),
        status=result.status,
        code=result.code,
        version=result.version,
        vector=vector if is_stored else None,
    )


def _meta_view(row: DocumentRow) -> DocumentMeta:
    return DocumentMeta(
        id=format_id("doc", row.id),
        source=format_id("src", row.source_id),
        external_id=row.external_id,
        title=row.title,
        uri=row.uri,
        media_type=row.media_type,
        state=row.state,
        code=row.state_code,
        version=row.version,
        acl=None if row.acl is None else acl_json(row.acl),
        acl_digest=None if row.acl_digest is None else row.acl_digest.hex(),
        container=row.container,
        labels=dict(row.labels),
        chunks=row.chunks,
        bytes=row.text_bytes,
        created_at=rfc3339(row.created_us),
        updated_at=rfc3339(row.updated_us),
        deleted_at=None if row.deleted_us is None else rfc3339(row.deleted_us),
    )
