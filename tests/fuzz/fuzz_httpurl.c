/* SPDX-License-Identifier: MIT */
/* URLs: no name that is shown, and no URL that is sent, has a user or a password in it. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "storage/http_url.h"
#include "storage/storage.h"

#define TEXT_BYTES_MAX 300u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static void has_no_secrets(const char *text)
{
    struct vd_http_url url;
    if (vd_http_url_parse(text, &url, NULL) < 0)
        return;
    assert(!url.user && !url.password);
    vd_http_url_free(&url);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    char text[TEXT_BYTES_MAX + 16] = "http://";
    length = strnlen((const char *)data, length < TEXT_BYTES_MAX ? length : TEXT_BYTES_MAX);
    memcpy(text + strlen("http://"), data, length);

    struct vd_http_url url;
    if (vd_http_url_parse(text, &url, NULL) < 0)
        return 0;
    has_no_secrets(url.url);
    vd_http_url_free(&url);

    /* The name as messages show it, which is in front of this one. */
    static const struct vd_storage_options writable = {.flags = VD_STORAGE_WRITE};
    struct vd_storage *storage;
    struct vdisk_error err = {0};
    int ret = vd_storage_open(text, &writable, &storage, &err);
    assert(ret == -EROFS);
    char *end = strstr(err.message, ": http storage can only be read");
    assert(end);
    *end = '\0';
    has_no_secrets(err.message);
    return 0;
}
