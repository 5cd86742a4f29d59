"""The encoding of a page: byte order mark, header, meta, then windows-1252; and its text.

The prescan is that of the HTML standard (13.2.3.2). Does not look at content beyond its first kilobyte, and never
takes a codec that is not one of the web's encodings.
"""

import re
from typing import Final

PRESCAN_BYTES: Final = 1_024

_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"))
_SPACE: Final = b"\t\n\x0c\r "
_CHARSET_PARAMETER: Final = re.compile(r"""charset\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;"',]+))""", re.IGNORECASE)
_ATTRIBUTE_END: Final = b"\t\n\x0c\r />="
_META: Final = re.compile(rb"<meta[\t\n\x0c\r /]", re.IGNORECASE)
_TAG: Final = re.compile(rb"</?[A-Za-z][^\t\n\x0c\r >]*")

# Labels of the Encoding standard by Python codec; the standard's supersets stand in for what the labels say.
_BY_CODEC: Final = {
    "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
    "cp866": "866 cp866 csibm866 ibm866",
    "iso8859-2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "iso8859-3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "iso8859-4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "iso8859-5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
    "iso8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e "
    "iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 iso_8859-7 "
    "iso_8859-7:1987 sun_eu_greek",
    "iso8859-8": "csiso88598e csiso88598i csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-8859-8-i iso-ir-138 "
    "iso8859-8 iso88598 iso_8859-8 iso_8859-8:1988 logical visual",
    "iso8859-10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso8859-13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859-14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859-15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
    "iso8859-16": "iso-8859-16",
    "koi8-r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8-u": "koi8-ru koi8-u",
    "mac-roman": "csmacintosh mac macintosh x-mac-roman",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
    "cp1250": "cp1250 windows-1250 x-cp1250",
    "cp1251": "cp1251 windows-1251 x-cp1251",
    "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 "
    "iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252 x-user-defined",
    "cp1253": "cp1253 windows-1253 x-cp1253",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 "
    "windows-1254 x-cp1254",
    "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1256": "cp1256 windows-1256 x-cp1256",
    "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
    "gb18030": "chinese csgb2312 csiso58gb231280 gb18030 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "euc-jp": "cseucpkdfmtjapanese euc-jp x-euc-jp",
    "iso2022-jp": "csiso2022jp iso-2022-jp",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 "
    "windows-949",
    "utf-16-be": "unicodefffe utf-16be",
    "utf-16-le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
}
_CODEC_BY_LABEL: Final = {label: codec for codec, labels in _BY_CODEC.items() for label in labels.split()}
DEFAULT: Final = "cp1252"


def decoded(body: bytes, content_type: str | None) -> tuple[str, str]:
    """Return the text of a page and the codec that was taken; what the codec cannot read becomes U+FFFD."""
    codec = codec_of(body, content_type)
    mark = next((bom for bom, _ in _BOMS if body.startswith(bom)), b"")
    return body[len(mark) :].decode(codec, "replace"), codec


def codec_of(body: bytes, content_type: str | None) -> str:
    """Return the Python codec of a page by mark, header, meta, default, in this order."""
    for bom, codec in _BOMS:
        if body.startswith(bom):
            return codec
    return _from_header(content_type) or prescanned(body[:PRESCAN_BYTES]) or DEFAULT


def codec_by_label(label: str) -> str | None:
    """Return the codec that a label of the Encoding standard stands for."""
    return _CODEC_BY_LABEL.get(label.strip("\t\n\x0c\r ").lower())


def prescanned(head: bytes) -> str | None:
    """Return the codec that a meta tag of the first kilobyte declares."""
    at = 0
    while True:
        at = head.find(b"<", at)
        if at < 0:
            return None
        if head.startswith(b"<!--", at):
            end = head.find(b"-->", at + 2)
            at = len(head) if end < 0 else end + 3
        elif _META.match(head, at):
            attributes, at = _attributes(head, at + 5)
            codec = _declared(attributes)
            if codec is not None:
                return codec
        elif (tag := _TAG.match(head, at)) is not None:
            _, at = _attributes(head, tag.end())
        elif head[at + 1 : at + 2] in {b"!", b"/", b"?"}:
            end = head.find(b">", at)
            at = len(head) if end < 0 else end + 1
        else:
            at += 1


def _from_header(content_type: str | None) -> str | None:
    found = _CHARSET_PARAMETER.search(content_type or "")
    return None if found is None else codec_by_label(found[1] or found[2] or found[3] or "")


def _declared(attributes: dict[bytes, bytes]) -> str | None:
    codec: str | None = None
    if b"charset" in attributes:
        codec = codec_by_label(attributes[b"charset"].decode("latin-1"))
    elif attributes.get(b"http-equiv") == b"content-type" and b"content" in attributes:
        codec = _from_header(attributes[b"content"].decode("latin-1"))
    # A page that a scan of octets can read is not in UTF-16, whatever it says.
    return "utf-8" if codec in {"utf-16-le", "utf-16-be"} else codec


def _attributes(head: bytes, at: int) -> tuple[dict[bytes, bytes], int]:
    """Return the lower-case attributes of a tag, the first of each name, and where it ends; none of one without end."""
    found: dict[bytes, bytes] = {}
    while True:
        while at < len(head) and head[at] in b"\t\n\x0c\r /":
            at += 1
        if at >= len(head):
            return {}, at
        if head[at] == 0x3E:
            return found, at + 1
        name, value, at = _attribute(head, at)
        found.setdefault(name.lower(), value.lower())


def _attribute(head: bytes, at: int) -> tuple[bytes, bytes, int]:
    start = at
    at += 1  # An equals sign in first place belongs to the name.
    while at < len(head) and head[at] not in _ATTRIBUTE_END and head[at] != 0x3E:
        at += 1
    name = head[start:at]
    after = _past_space(head, at)
    if head[after : after + 1] != b"=":
        return name, b"", at
    at = _past_space(head, after + 1)
    quote = head[at : at + 1]
    if quote in {b'"', b"'"}:
        end = head.find(quote, at + 1)
        return (name, head[at + 1 : end], end + 1) if end >= 0 else (name, b"", len(head))
    start = at
    while at < len(head) and head[at] not in _SPACE and head[at] != 0x3E:
        at += 1
    return name, head[start:at], at


def _past_space(head: bytes, at: int) -> int:
    while at < len(head) and head[at] in _SPACE:
        at += 1
    return at
