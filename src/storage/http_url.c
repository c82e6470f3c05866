/* SPDX-License-Identifier: MIT */
/* A URL taken apart. */
#include "storage/http_url.h"

#include <curl/curl.h>
#include <string.h>
#include <strings.h>

/* A part that need not be there: @part stays NULL then. */
static CURLUcode get_secret(CURLU *parser, CURLUPart what, CURLUcode absent, char **part)
{
    CURLUcode code = curl_url_get(parser, what, part, CURLU_URLDECODE);
    return code == absent ? CURLUE_OK : code;
}

static CURLUcode take_apart(CURLU *parser, const char *text, struct vd_http_url *url)
{
    /* Blanks and bytes above 127 are encoded: people paste them, and servers redirect to them. */
    CURLUcode code = curl_url_set(parser, CURLUPART_URL, text, CURLU_URLENCODE);
    if (!code)
        code = get_secret(parser, CURLUPART_USER, CURLUE_NO_USER, &url->user);
    if (!code)
        code = get_secret(parser, CURLUPART_PASSWORD, CURLUE_NO_PASSWORD, &url->password);
    if (!code)
        code = curl_url_get(parser, CURLUPART_SCHEME, &url->scheme, 0);
    if (!code)
        code = curl_url_get(parser, CURLUPART_HOST, &url->host, 0);
    if (!code)
        code = curl_url_get(parser, CURLUPART_PORT, &url->port, CURLU_DEFAULT_PORT);
    if (!code)
        code = curl_url_set(parser, CURLUPART_USER, NULL, 0);
    if (!code)
        code = curl_url_set(parser, CURLUPART_PASSWORD, NULL, 0);
    if (!code)
        code = curl_url_set(parser, CURLUPART_FRAGMENT, NULL, 0);
    if (!code)
        code = curl_url_get(parser, CURLUPART_URL, &url->url, 0);
    return code;
}

int vd_http_url_parse(const char *text, struct vd_http_url *url, struct vdisk_error *err)
{
    *url = (struct vd_http_url){0};
    CURLU *parser = curl_url();
    if (!parser)
        return vd_err_nomem(err, "a URL");

    int ret = 0;
    CURLUcode code = take_apart(parser, text, url);
    if (code == CURLUE_OUT_OF_MEMORY)
        ret = vd_err_nomem(err, "a URL");
    else if (code)
        ret = vd_err_set(err, EINVAL, "not a URL that can be used: %s", curl_url_strerror(code));
    else if (strcasecmp(url->scheme, "http") != 0 && strcasecmp(url->scheme, "https") != 0)
        ret = vd_err_set(err, EINVAL, "URL scheme '%s': only http and https can be used",
                         url->scheme);
    curl_url_cleanup(parser);
    if (ret < 0)
        vd_http_url_free(url);
    return ret;
}

bool vd_http_url_same_origin(const struct vd_http_url *a, const struct vd_http_url *b)
{
    return strcasecmp(a->scheme, b->scheme) == 0 && strcasecmp(a->host, b->host) == 0 &&
           strcmp(a->port, b->port) == 0;
}

void vd_http_url_free(struct vd_http_url *url)
{
    curl_free(url->url);
    curl_free(url->scheme);
    curl_free(url->host);
    curl_free(url->port);
    curl_free(url->user);
    curl_free(url->password);
    *url = (struct vd_http_url){0};
}
