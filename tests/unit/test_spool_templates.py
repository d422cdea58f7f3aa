"""Templated mail: the samples as they leave, hostile data, what a template may reach, and every error.

`python -m tests.unit.test_spool_templates` writes the snapshots anew; look at the difference before you keep it.
"""

from __future__ import annotations

import os
import sys
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import default
from email.utils import parseaddr
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.mail.addresses import AddressError
from workers.spool.compose import Image, Rendered, compose, text_of
from workers.spool.templating import MAX_FILE_BYTES, TemplateError, listed, render

if TYPE_CHECKING:
    from pathlib import Path

SNAPSHOTS = os.path.join(os.path.dirname(__file__), "snapshots")
SAMPLES = ("confirm-address", "recover-password")
NOWHERE = "/nonexistent/templates"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
DATA = {
    "sitename": "Example Shop",
    "siteaddr": "https://shop.example.org/",
    "addr": "https://shop.example.org/confirm?token=3f9c0a7e5b2d4c18a6f1e0d97b35c2aa&user=4711",
    "username": "Ann Müller",
    "curtime": "2024-03-29 15:38 UTC",
}
HOSTILE = "Ann\r\nBcc: victim@example.net\r\n\r\nbody\0\x85\u2028\x1b[31m"


def composed(rendered: Rendered, **changes: Any) -> bytes:
    facts: dict[str, Any] = {
        "sender": "app@example.org",
        "name": "Example Shop",
        "reply_to": None,
        "to": ["ann@example.net"],
        "message_id": "<1@example.org>",
        "date": "Fri, 29 Mar 2024 15:38:58 +0000",
        "extra": {},
    }
    return compose(rendered, **{**facts, **changes})


def parsed(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def sender_of(raw: bytes) -> tuple[str, str]:
    """Name and address, read with the old interface: the new one (3.11) puts blanks between encoded words."""
    name, address = parseaddr(message_from_bytes(raw)["From"])
    return str(make_header(decode_header(name))), address


def template(folder: Path, name: str = "t", **files: str | bytes) -> str:
    """Makes a template of files whose `_` stands for a dot; gives the templates folder."""
    place = folder / name
    place.mkdir(exist_ok=True)
    for file, content in {"subject_txt": "Hello", **files}.items():
        path = place / file.replace("_", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
    return str(folder)


def snapshots() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in SAMPLES:
        mail = render(NOWHERE, name, DATA)
        found |= {f"{name}.html": mail.html or "", f"{name}.txt": mail.text}
        found[f"{name}.eml"] = composed(mail, reply_to="help@example.org").decode().replace("\r\n", "\n")
    return found


@pytest.mark.parametrize("file", [f"{name}.{kind}" for name in SAMPLES for kind in ("html", "txt", "eml")])
def test_a_sample_looks_as_it_did(file: str) -> None:
    with open(os.path.join(SNAPSHOTS, file), encoding="utf-8") as snapshot:
        assert snapshots()[file] == snapshot.read()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_shows_hostile_data_as_text(name: str) -> None:
    data = {**DATA, "username": "<script>alert(1)</script>", "addr": "https://x.example/\" onclick='evil()' x=\"<b>"}
    mail = render(NOWHERE, name, data)
    assert mail.html is not None
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in mail.html
    assert "<script" not in mail.html
    assert 'href="https://x.example/&#34; onclick=&#39;evil()&#39; x=&#34;&lt;b&gt;"' in mail.html
    assert "Hello <script>alert(1)</script>," in mail.text


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("missing", sorted(DATA))
def test_a_missing_value_is_named_with_file_and_line(name: str, missing: str) -> None:
    with pytest.raises(
        TemplateError, match=rf"'{name}': .*/(subject.txt|body.html), line \d+: '{missing}' is undefined; give it"
    ):
        render(NOWHERE, name, {key: value for key, value in DATA.items() if key != missing})


def test_the_subject_is_not_escaped_and_stays_one_line(tmp_path: Path) -> None:
    folder = template(tmp_path, subject_txt="Tom & {{ who }}\n", body_txt="x")
    assert render(folder, "t", {"who": "<Jerry>"}).subject == "Tom & <Jerry>"
    assert render(folder, "t", {"who": HOSTILE}).subject == "Tom & Ann Bcc: victim@example.net body [31m"


@pytest.mark.parametrize(
    "who", [HOSTILE, "x" * 10_000, "😀" * 10_000, "a b " * 2500, '"q" \\ <a@b>', "=?utf-8?q?x?=", "\ud800", "é" * 39]
)
def test_no_name_and_no_subject_leaves_its_header_field(who: str) -> None:
    raw = composed(Rendered(who, f"<p>{who}</p>", who), name=who, extra={"X-Who": who})
    message = parsed(raw)
    assert message.keys() == ["From", "To", "Subject", "Date", "Message-ID", "X-Who", "MIME-Version", "Content-Type"]
    assert message["Subject"] == Rendered(who, None, "").subject
    assert sender_of(raw) == (Rendered(who, None, "").subject, "app@example.org")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    rest = raw.replace(b"\r\n", b"")
    assert not any(sign in rest for sign in b"\r\n\0")


@given(st.text())
def test_any_text_survives_in_a_subject_and_a_name(words: str) -> None:
    plain = Rendered(words, None, "").subject
    raw = composed(Rendered(words, None, words), name=words)
    message = parsed(raw)
    assert (message["Subject"] or "") == plain
    assert sender_of(raw) == (plain, "app@example.org")
    text = Rendered("", None, words).text
    assert message.get_content().replace("\r\n", "\n") == text + "\n" * (not text.endswith("\n"))


def test_the_parts_stand_as_mail_programs_expect_them() -> None:
    html = '<p>grün</p><img src="cid:a@inline">\n'
    raw = composed(Rendered("s", html, "text\n", [Image("a@inline", "lo go.png", "png", PNG)]))
    message = parsed(raw)
    assert raw.isascii()  # no relay has to offer 8BITMIME for it
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
    ]
    text, related = message.iter_parts()
    page, picture = related.iter_parts()
    assert isinstance(picture, EmailMessage)
    assert text["MIME-Version"] is None
    assert related.get_param("type") == "text/html"
    assert page.get_content().replace("\r\n", "\n") == html
    assert (picture["Content-ID"], picture.get_filename(), picture.get_content()) == ("<a@inline>", "lo go.png", PNG)
    assert picture.get_content_disposition() == "inline"
    assert parsed(composed(Rendered("s", None, "text\n"))).get_content_type() == "text/plain"


def test_the_same_parts_give_the_same_bytes_and_another_message_id_another_boundary() -> None:
    mail = Rendered("s", "<p>x</p>", "x")
    assert composed(mail) == composed(mail)
    assert parsed(composed(mail)).get_boundary() != parsed(composed(mail, message_id="<2@example.org>")).get_boundary()


@pytest.mark.parametrize("field", ["sender", "reply_to", "to"])
def test_a_bad_address_is_refused(field: str) -> None:
    bad = "a@b.c>\r\nBcc: x@y.z"
    with pytest.raises(AddressError, match="control character"):
        composed(Rendered("s", None, "x"), **{field: [bad] if field == "to" else bad})


@pytest.mark.parametrize("field", ["X A", "X:", "X\r\nBcc", "", "Bcc", "From", "Content-Type", "ö"])
def test_an_extra_field_is_no_way_to_other_fields(field: str) -> None:
    with pytest.raises(ValueError, match="extra header field"):
        composed(Rendered("s", None, "x"), extra={field: "x"})


def test_a_long_address_in_an_extra_field_is_left_whole() -> None:
    url = f"<https://example.org/{'x' * 300}>"
    assert f" {url}\r\n".encode() in composed(Rendered("s", None, "x"), extra={"List-Unsubscribe": f"<mailto:a@b.c>, {url}"})


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<title>t</title><style>p{}</style><script>x</script><p>a &amp; b&nbsp;&lt;c", "a & b <c\n"),
        ("<h1>One <b>two</b></h1><h2>Three</h2><h3>Four</h3>x", "One two\n=======\n\nThree\n-----\n\nFour\n\nx\n"),
        ("<ul><li>a<li>b <ul><li>c</ul></ul><ol><li>d</li><li><p>e</p></ol>", "- a\n- b\n  - c\n\n1. d\n2. e\n"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>c</td><td> </td><td>d</td></tr></table>", "a | b\nc | d\n"),
        ('<a href="https://e.x/?a=1&amp;b=2">Go</a>.', "Go <https://e.x/?a=1&b=2>.\n"),
        ('<a href="https://e.x/a b">e</a> <a href="https://e.x">https://e.x</a>', "e <https://e.x/a%20b> https://e.x\n"),
        ('<a href="mailto:a@b.c">a@b.c</a> <a href="#x">x</a> <a href="javascript:y">y</a>', "a@b.c x y\n"),
        ('<a href="https://e.x"><img src=x alt="Logo"></a><img src=y><br>end', "Logo <https://e.x>\nend\n"),
        ('<p style="DISPLAY : none">no<p>no</p></p></p><div hidden>no<div>no</div></div>yes', "yes\n"),
        ("<div>a</div><div>b</div><p>c</p>\n\n<p>d</p>", "a\nb\n\nc\n\nd\n"),
        ("<!-- no --><p>" + "word " * 20, "word " * 13 + "word\n" + "word " * 5 + "word\n"),
        ("<p>" + "确认邮箱。" * 8, "确认邮箱。" * 7 + "确\n认邮箱。\n"),
        ("</ul></a></td><li>x</li>", "- x\n"),
        ("", "\n"),
    ],
)
def test_a_page_becomes_text(html: str, text: str) -> None:
    assert text_of(html) == text


@given(st.lists(st.text("abc,.", min_size=1, max_size=90)), st.text("ab/?&=-", max_size=200))
def test_a_link_is_never_broken_and_nothing_is_lost(words: list[str], path: str) -> None:
    url = f"https://example.org/{path}"
    lines = text_of(f"<p>{' '.join(words)} <a href='{url.replace('&', '&amp;')}'>here</a></p>").split("\n")
    assert any(f"<{url}>" in line for line in lines)
    assert " ".join(lines).split() == [*words, "here", f"<{url}>"]
    assert all(len(line) <= 72 or " " not in line for line in lines)


def test_a_picture_of_the_folder_goes_along_once_and_other_addresses_stay(tmp_path: Path) -> None:
    page = """<IMG alt='a src="x.png"' src=logo.png><img src='./logo.png?v=2' width=3><img alt="-"/><!-- <img src=no.png> -->
    <img src="https://e.x/y.png"><img src="//e.x/z.png"><img src="data:image/png;base64,AA=="><img src="cid:q"><img src="">
    <!--[if mso]><img src="in%20side.jpg"><![endif]-->"""
    folder = template(tmp_path, body_html=page, logo_png=PNG)
    (tmp_path / "t" / "in side.jpg").write_bytes(b"\xff\xd8\xff")
    mail = render(folder, "t", {})
    assert mail.html is not None
    logo, inside = mail.images
    assert (logo.name, logo.subtype, logo.data) == ("logo.png", "png", PNG)
    assert (inside.name, inside.subtype) == ("in side.jpg", "jpeg")
    expected = page.replace("IMG", "img", 1).replace("src=logo.png", f'src="cid:{logo.cid}"')
    expected = expected.replace("'./logo.png?v=2'", f'"cid:{logo.cid}"').replace("in%20side.jpg", f"cid:{inside.cid}")
    assert mail.html == expected
    assert [part.get_content_type() for part in parsed(composed(mail)).walk()].count("image/png") == 1


def test_a_layout_beside_the_templates_is_found_and_all_of_a_page_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "layout.html").write_text("<main>{% block body %}{% endblock %}</main>")
    page = '{% extends "layout.html" %}{% block body %}{% include "who.txt" %}{{ nothing }}{% endblock %}'
    folder = template(tmp_path, body_html=page, who_txt="{{ who }}", body_txt="{% if who %}\n{{ who }}\n{% endif %}\nend")
    mail = render(folder, "t", {"who": "<i>\r\x1b", "nothing": None})
    assert (mail.html, mail.text) == ("<main>&lt;i&gt;\n</main>", "<i>\n\nend")


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    assert render(template(tmp_path, body_txt="one"), "t", {}).text == "one"
    assert render(template(tmp_path, body_txt="three"), "t", {}).text == "three"


def test_the_users_folder_comes_before_the_samples(tmp_path: Path) -> None:
    folder = template(tmp_path, "confirm-address", body_txt="mine")
    template(tmp_path, "empty")
    template(tmp_path, ".hidden", body_txt="x")
    (tmp_path / "layout.html").touch()
    assert render(folder, "confirm-address", {}).text == "mine"
    assert listed(template(tmp_path, "news", body_html="x")) == ["confirm-address", "news", "recover-password"]
    assert listed(NOWHERE) == list(SAMPLES)
    with pytest.raises(TemplateError, match=r"templates folder .*layout.html: Not a directory; make it a folder"):
        listed(str(tmp_path / "layout.html"))


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "../t", "a\0", "ä", "a b", "a\n", "/etc"])
def test_a_name_is_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"a name has letters, digits, - _ and . only"):
        render(template(tmp_path, body_txt="x"), name, {})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"t/: has neither body.html nor body.txt; write one"),
        ({"body_html": "a\n{% include '../../etc/passwd' %}"}, r"body.html, line 2: '../../etc/passwd' leads out of"),
        ({"body_html": "{% include '/etc/passwd' ignore missing %}"}, r"line 1: '/etc/passwd' leads out of"),
        ({"body_html": "{% extends '../t-other/x' %}"}, r"'../t-other/x' leads out of"),
        ({"body_html": "{% include 'out.html' %}"}, r"line 1: 'out.html' leads out of"),
        ({"body_html": "{% include 'a\0' %}"}, r"leads out of"),
        ({"body_html": "x\n\n{% include 'no.html' %}"}, r"body.html, line 3: there is no file 'no.html' in"),
        ({"body_html": "{% include 'b.html' %}", "b_html": "\n{{ gone }}"}, r"b.html, line 2: 'gone' is undefined"),
        ({"body_html": "{% include 'b.html' %}", "b_html": "\n{% if %}"}, r"b.html, line 2: Expected an expression"),
        ({"body_html": "{% include 'body.html' %}"}, r"body.html, line 1: RecursionError"),
        ({"body_html": "\n{{ who.gone }}"}, r"line 2: 'dict object' has no attribute 'gone'"),
        ({"body_html": "{{ ''.__class__.__mro__ }}"}, r"line 1: SecurityError: access to attribute '__class__'"),
        ({"body_html": "\n{{ 1 / 0 }}"}, r"line 2: ZeroDivisionError: division by zero; mend"),
        ({"body_html": "{% for x in y %}"}, r"line 1: Unexpected end of template"),
        ({"body_html": "gr\udcfcn"}, r"body.html: byte 2 of 'body.html' is not UTF-8"),
        ({"body_txt": "x" * (MAX_FILE_BYTES + 1)}, r"'body.txt' is larger than 5 MiB"),
        ({"body_html": "<p><![odd[x]]>"}, r"body.html: .*in line 1 of the page; mend it, or write a body.txt"),
        ({"body_txt": "x", "subject_txt": " \x1b\n"}, r"subject.txt: the subject came out empty"),
        ({"body_html": "\n<img src='gone.png'>"}, r"body.html, line 2: picture 'gone.png' is not in"),
        ({"body_html": "<img src='{{ who }}'>"}, r"body.html: picture .* is of a kind that mail programs don't show"),
        ({"body_html": "<img src='out.png'>"}, r"line 1: picture 'out.png' leads out of"),
        ({"body_html": "<img src='../top.png'>"}, r"line 1: picture '../top.png' leads out of"),
        ({"body_html": "<img src='/etc/x.png'>"}, r"line 1: picture '/etc/x.png' leads out of"),
        ({"body_html": "<img src='%00.png'>"}, r"picture '%00.png' leads out of"),
        ({"body_html": "<img src='body.html'>"}, r"picture 'body.html' is of a kind"),
        (
            {"body_html": "<img src='a.svg'>", "a_svg": "<svg/>"},
            r"'a.svg' is of a kind that mail programs don't show; use one of",
        ),
        (
            {"body_html": "<img src='a.png'>", "a_png": bytes(MAX_FILE_BYTES + 1)},
            r"picture 'a.png' is larger than 5 MiB; make it",
        ),
    ],
)
def test_a_mistake_is_named(files: dict[str, str | bytes], message: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    folder = template(root, "t", **files)
    for place, name in ((tmp_path, "secret.html"), (tmp_path, "secret.png"), (root, "top.png")):
        (place / name).write_bytes(b"secret")
    (root / "t" / "out.html").symlink_to(tmp_path / "secret.html")
    (root / "t" / "out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(TemplateError, match=rf"template 't': {root}/.*{message}"):
        render(folder, "t", {"who": {}})


def test_a_picture_of_five_mebibytes_is_taken(tmp_path: Path) -> None:
    folder = template(tmp_path, body_html="<img src=a.gif>", a_gif=bytes(MAX_FILE_BYTES))
    assert len(render(folder, "t", {}).images[0].data) == MAX_FILE_BYTES


def test_a_template_without_a_subject_and_a_strange_one_are_named(tmp_path: Path) -> None:
    folder = template(tmp_path, body_txt="x")
    (tmp_path / "t" / "subject.txt").unlink()
    with pytest.raises(TemplateError, match=r"/t/subject.txt: is missing; write the subject"):
        render(folder, "t", {})
    (tmp_path / "away").symlink_to(os.path.dirname(SNAPSHOTS))
    with pytest.raises(TemplateError, match=r"is a link that leads out of .*; put the folder itself there"):
        render(folder, "away", {})
    with pytest.raises(TemplateError, match=r"'none': there is no folder .*/none; make it, or use one of: confirm-address, "):
        render(folder, "none", {})


@pytest.mark.parametrize("data", [[], "x", {1: "x"}, None])
def test_data_must_be_an_object(data: Any) -> None:
    with pytest.raises(TemplateError, match="the data is no JSON object"):
        render(NOWHERE, "confirm-address", data)


def test_without_jinja2_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = template(tmp_path, body_txt="x")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(TemplateError, match=r"pip install 'semguard\[templates\]'"):
        render(folder, "t", {})


if __name__ == "__main__":
    os.makedirs(SNAPSHOTS, exist_ok=True)
    for file_name, words in snapshots().items():
        with open(os.path.join(SNAPSHOTS, file_name), "w", encoding="utf-8") as written:
            written.write(words)
