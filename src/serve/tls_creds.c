/* SPDX-License-Identifier: MIT */
#include "serve/tls_creds.h"

#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/mem.h"

#define FILE_BYTES_MAX (16u << 20)
#define KEY_BYTES_MAX  512u /* psktool makes no longer ones */

/* Added to what the system has: TLS 1.2 is the oldest that is not broken. */
#define PRIORITY_OF_OURS "-VERS-TLS1.0:-VERS-TLS1.1:-VERS-DTLS-ALL"
#define PRIORITY_OF_PSK  "+ECDHE-PSK:+DHE-PSK:+PSK"

/* ---- Files ---- */

static void forget(gnutls_datum_t *content)
{
    if (content->data)
        gnutls_memset(content->data, 0, content->size);
    free(content->data);
    *content = (gnutls_datum_t){0};
}

static int read_all(int fd, const char *name, gnutls_datum_t *content, struct vdisk_error *err)
{
    struct stat info;
    if (fstat(fd, &info) < 0)
        return vd_err_errno(err, errno, "%s", name);
    if (!S_ISREG(info.st_mode) || info.st_size > FILE_BYTES_MAX)
        return vd_err_set(err, EINVAL, "%s: not a regular file of at most %u bytes", name,
                          FILE_BYTES_MAX);
    size_t length = (size_t)info.st_size;
    content->data = malloc(length + 1);
    if (!content->data)
        return vd_err_nomem(err, "keys and certificates");
    content->size = 0;
    while (content->size < length) {
        ssize_t got = read(fd, content->data + content->size, length - content->size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return vd_err_errno(err, errno, "%s", name);
        if (got == 0)
            break; /* shorter by now */
        content->size += (unsigned)got;
    }
    content->data[content->size] = '\0';
    return 0;
}

/* @content goes to forget(), also after a failure.  With @is_optional, -ENOENT tells that there is
 * no such file, without a story. */
static int read_file(const char *name, bool is_optional, gnutls_datum_t *content,
                     struct vdisk_error *err)
{
    CLEANUP_CLOSE int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 && errno == ENOENT && is_optional)
        return -ENOENT;
    if (fd < 0)
        return vd_err_errno(err, errno, "%s", name);
    return read_all(fd, name, content, err);
}

static int path_of(const char *directory, const char *name, char **path, struct vdisk_error *err)
{
    if (asprintf(path, "%s/%s", directory, name) < 0) {
        *path = NULL;
        return vd_err_nomem(err, "the name of a file");
    }
    return 0;
}

/* ---- X.509 ---- */

typedef int (*take_fn)(gnutls_certificate_credentials_t x509, const gnutls_datum_t *content,
                       gnutls_x509_crt_fmt_t format);

/* Gives certificates or revocations of a file to @take, which says how many there were. */
static int load_list(struct vd_tls_creds *creds, const char *directory, const char *name,
                     bool is_optional, take_fn take, struct vdisk_error *err)
{
    CLEANUP_FREE char *path = NULL;
    gnutls_datum_t content = {0};
    int ret = path_of(directory, name, &path, err);
    if (ret == 0)
        ret = read_file(path, is_optional, &content, err);
    if (ret == 0) {
        int count = take(creds->x509, &content, GNUTLS_X509_FMT_PEM);
        if (count <= 0)
            ret = vd_err_set(err, EINVAL, "%s: %s", path,
                             count < 0 ? gnutls_strerror(count) : "there is nothing in it");
    }
    forget(&content);
    return ret == -ENOENT && is_optional ? 0 : ret;
}

static int load_identity(struct vd_tls_creds *creds, const char *directory, struct vdisk_error *err)
{
    CLEANUP_FREE char *cert_path = NULL;
    CLEANUP_FREE char *key_path = NULL;
    gnutls_datum_t cert = {0};
    gnutls_datum_t key = {0};
    int ret = path_of(directory, "server-cert.pem", &cert_path, err);
    if (ret == 0)
        ret = path_of(directory, "server-key.pem", &key_path, err);
    if (ret == 0)
        ret = read_file(cert_path, false, &cert, err);
    if (ret == 0)
        ret = read_file(key_path, false, &key, err);
    if (ret == 0) {
        int code =
            gnutls_certificate_set_x509_key_mem(creds->x509, &cert, &key, GNUTLS_X509_FMT_PEM);
        if (code < 0)
            ret = vd_err_set(err, EINVAL, "%s and %s: %s", cert_path, key_path,
                             gnutls_strerror(code));
    }
    forget(&key);
    forget(&cert);
    return ret;
}

/* Newer ways of agreeing on a key need no such file; who has one wants it used. */
static int load_dh(struct vd_tls_creds *creds, const char *directory, struct vdisk_error *err)
{
    CLEANUP_FREE char *path = NULL;
    gnutls_datum_t content = {0};
    int ret = path_of(directory, "dh-params.pem", &path, err);
    if (ret == 0)
        ret = read_file(path, true, &content, err);
    if (ret == 0) {
        int code = gnutls_dh_params_init(&creds->dh);
        if (code == 0)
            code = gnutls_dh_params_import_pkcs3(creds->dh, &content, GNUTLS_X509_FMT_PEM);
        if (code < 0)
            ret = vd_err_set(err, EINVAL, "%s: %s", path, gnutls_strerror(code));
        else
            gnutls_certificate_set_dh_params(creds->x509, creds->dh);
    }
    forget(&content);
    return ret == -ENOENT ? 0 : ret;
}

static int load_x509(struct vd_tls_creds *creds, const struct vdisk_tls_options *options,
                     struct vdisk_error *err)
{
    int code = gnutls_certificate_allocate_credentials(&creds->x509);
    if (code < 0)
        return vd_err_set(err, ENOMEM, "certificates: %s", gnutls_strerror(code));
    bool verifies = options->flags & VDISK_TLS_VERIFY_PEER;
    int ret = load_list(creds, options->directory, "ca-cert.pem", !verifies,
                        gnutls_certificate_set_x509_trust_mem, err);
    if (ret == 0)
        ret = load_list(creds, options->directory, "ca-crl.pem", true,
                        gnutls_certificate_set_x509_crl_mem, err);
    if (ret == 0)
        ret = load_identity(creds, options->directory, err);
    if (ret == 0)
        ret = load_dh(creds, options->directory, err);
    return ret;
}

/* ---- Pre-shared keys ---- */

const struct vd_tls_user *vd_tls_creds_user(const struct vd_tls_creds *creds, const char *name)
{
    for (size_t i = 0; i < creds->user_entries; i++)
        if (strcmp(creds->users[i].name, name) == 0)
            return &creds->users[i];
    return NULL;
}

/* @line: "user:hexadecimal key", ends with a 0 byte. */
static int add_user(struct vd_tls_creds *creds, char *line, const char *file, unsigned number,
                    struct vdisk_error *err)
{
    char *colon = strrchr(line, ':');
    if (!colon || colon == line)
        return vd_err_set(err, EINVAL, "%s: line %u is not 'user:key'", file, number);
    *colon = '\0';
    gnutls_datum_t hex = {.data = (unsigned char *)colon + 1, .size = (unsigned)strlen(colon + 1)};
    gnutls_datum_t key = {0};
    if (hex.size == 0 || gnutls_hex_decode2(&hex, &key) < 0 || key.size > KEY_BYTES_MAX) {
        gnutls_free(key.data);
        /* What is in the line is not told: it may be a key. */
        return vd_err_set(err, EINVAL, "%s: line %u: the key is not hexadecimal, of 1 to %u bytes",
                          file, number, KEY_BYTES_MAX);
    }
    struct vd_tls_user user = {.name = strdup(line), .key = key};
    bool is_known = user.name && vd_tls_creds_user(creds, user.name);
    struct vd_tls_user *users = NULL;
    if (user.name && !is_known)
        users = reallocarray(creds->users, creds->user_entries + 1, sizeof(*users));
    if (!users) {
        free(user.name);
        gnutls_memset(key.data, 0, key.size);
        gnutls_free(key.data);
        if (is_known)
            return vd_err_set(err, EINVAL, "%s: line %u: the user is there twice", file, number);
        return vd_err_nomem(err, "the pre-shared keys");
    }
    creds->users = users;
    creds->users[creds->user_entries++] = user;
    return 0;
}

static int parse_users(struct vd_tls_creds *creds, char *text, const char *file,
                       struct vdisk_error *err)
{
    unsigned number = 0;
    for (char *line = text; line;) {
        char *end = strchr(line, '\n');
        if (end)
            *end = '\0';
        number++;
        size_t length = strlen(line);
        if (length && line[length - 1] == '\r')
            line[length - 1] = '\0';
        if (*line && *line != '#') {
            int ret = add_user(creds, line, file, number, err);
            if (ret < 0)
                return ret;
        }
        line = end ? end + 1 : NULL;
    }
    if (!creds->user_entries)
        return vd_err_set(err, EINVAL, "%s: there is no 'user:key' in it", file);
    return 0;
}

/* 1: there is no such user.  GnuTLS then goes on with a key that nobody has, so that names can not
 * be found out. */
static int give_key(gnutls_session_t session, const char *name, gnutls_datum_t *key)
{
    const struct vd_tls_creds *creds = gnutls_session_get_ptr(session);
    const struct vd_tls_user *user = vd_tls_creds_user(creds, name);
    if (!user)
        return 1;
    key->data = gnutls_malloc(user->key.size);
    if (!key->data)
        return -1;
    memcpy(key->data, user->key.data, user->key.size);
    key->size = user->key.size;
    return 0;
}

static int load_psk(struct vd_tls_creds *creds, const char *file, struct vdisk_error *err)
{
    int code = gnutls_psk_allocate_server_credentials(&creds->psk);
    if (code < 0)
        return vd_err_set(err, ENOMEM, "pre-shared keys: %s", gnutls_strerror(code));
    gnutls_datum_t content = {0};
    int ret = read_file(file, false, &content, err);
    if (ret == 0)
        ret = parse_users(creds, (char *)content.data, file, err);
    forget(&content);
    if (ret < 0)
        return ret;
    gnutls_psk_set_server_credentials_function(creds->psk, give_key);
    code = gnutls_psk_set_server_known_dh_params(creds->psk, GNUTLS_SEC_PARAM_MEDIUM);
    return code < 0 ? vd_err_set(err, EIO, "pre-shared keys: %s", gnutls_strerror(code)) : 0;
}

/* ---- All together ---- */

static int set_priority(struct vd_tls_creds *creds, const struct vdisk_tls_options *options,
                        struct vdisk_error *err)
{
    const char *wanted = options->priority;
    CLEANUP_FREE char *text = NULL;
    if (asprintf(&text, "%s%s%s", wanted ? wanted : PRIORITY_OF_OURS, creds->psk ? ":" : "",
                 creds->psk ? PRIORITY_OF_PSK : "") < 0) {
        text = NULL;
        return vd_err_nomem(err, "the TLS priority");
    }
    const char *at = NULL;
    int code = gnutls_priority_init2(&creds->priority, text, &at,
                                     wanted ? 0 : GNUTLS_PRIORITY_INIT_DEF_APPEND);
    if (code < 0)
        return vd_err_set(err, EINVAL, "TLS priority '%s': %s, at '%s'", text,
                          gnutls_strerror(code), at ? at : text);
    return 0;
}

int vd_tls_creds_read(const struct vdisk_tls_options *options, struct vd_tls_creds **read,
                      struct vdisk_error *err)
{
    struct vd_tls_creds *creds = calloc(1, sizeof(*creds));
    if (!creds)
        return vd_err_nomem(err, "keys and certificates");
    creds->holders = 1;
    int ret = options->directory ? load_x509(creds, options, err)
                                 : load_psk(creds, options->psk_file, err);
    if (ret == 0)
        ret = set_priority(creds, options, err);
    if (ret < 0) {
        vd_tls_creds_free(creds);
        return ret;
    }
    *read = creds;
    return 0;
}

void vd_tls_creds_free(struct vd_tls_creds *creds)
{
    if (!creds)
        return;
    for (size_t i = 0; i < creds->user_entries; i++) {
        gnutls_memset(creds->users[i].key.data, 0, creds->users[i].key.size);
        gnutls_free(creds->users[i].key.data);
        free(creds->users[i].name);
    }
    free(creds->users);
    if (creds->psk)
        gnutls_psk_free_server_credentials(creds->psk);
    if (creds->x509)
        gnutls_certificate_free_credentials(creds->x509);
    if (creds->dh)
        gnutls_dh_params_deinit(creds->dh);
    if (creds->priority)
        gnutls_priority_deinit(creds->priority);
    free(creds);
}

/* The shortest way back: only the last * may take more text. */
bool vd_tls_name_matches(const char *pattern, const char *name)
{
    const char *star = NULL;
    const char *taken = name;
    while (*name) {
        if (*pattern == '*') {
            star = pattern++;
            taken = name;
        } else if (*pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star + 1;
            name = ++taken;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}
