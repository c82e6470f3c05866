/* SPDX-License-Identifier: MIT */
/* NBD URIs: what is accepted is complete, and means the same when it is read again. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "storage/nbd_uri.h"

#define TEXT_BYTES_MAX 400u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static void check(const struct vd_nbd_uri *uri)
{
    assert(uri->place && uri->place[0] && uri->export_name && uri->text);
    assert((uri->port != NULL) == (uri->transport != VD_NBD_UNIX));
    assert(uri->is_tls || (!uri->has_key && !uri->certificates));
    for (const char *c = uri->text; *c; c++)
        assert(*c > ' ' && *c < 127 && *c != '#');
    /* libnbd looks for these by their plain names only. */
    assert(!uri->has_key || strstr(uri->text, "tls-psk-file="));
    assert(!uri->certificates || strstr(uri->text, "tls-certificates="));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    static const char *const schemes[] = {VD_NBD_SCHEMES};
    char text[TEXT_BYTES_MAX + 16];
    if (length == 0)
        return 0;
    const char *scheme = schemes[data[0] % (sizeof(schemes) / sizeof(schemes[0]))];
    int used = snprintf(text, sizeof(text), "%s://", scheme);
    const char *rest = (const char *)data + 1;
    size_t rest_bytes = strnlen(rest, length - 1 < TEXT_BYTES_MAX ? length - 1 : TEXT_BYTES_MAX);
    memcpy(text + used, rest, rest_bytes);
    text[(size_t)used + rest_bytes] = '\0';

    struct vd_nbd_uri uri;
    struct vd_nbd_uri again;
    struct vdisk_error err = {0};
    int ret = vd_nbd_uri_parse(text, &uri, &err);
    assert((ret < 0) == (err.code != 0));
    if (ret == 0) {
        check(&uri);
        ret = vd_nbd_uri_parse(uri.text, &again, NULL);
        assert(ret == 0);
        assert(vd_storage_identity_equals(vd_nbd_uri_identity(&uri), vd_nbd_uri_identity(&again)));
        vd_nbd_uri_free(&again);
    }
    vd_nbd_uri_free(&uri);
    return 0;
}
