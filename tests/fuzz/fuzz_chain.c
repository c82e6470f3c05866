/* SPDX-License-Identifier: MIT */
/*
 * Any text as the name of a file that an image names: where does it lead, and does the gate let it?
 *
 *     byte 0     bits 0-2: the image that bears the name; bit 3: where it is comes from the input,
 *                up to a zero byte
 *     the rest   the name; a byte of 1 stands for the folder of the test
 *
 * What holds for any input: no crash, no leak; a gate that permits nothing lets nothing by; one
 * that permits what is beside the image lets nothing by that is elsewhere, whatever links there
 * are; a name that has been resolved means itself; messages can be printed.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/gate.h"
#include "input.h"

#define TEXT_BYTES_MAX 1500u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

#define REQUIRE(condition) \
    do {                   \
        if (!(condition))  \
            abort();       \
    } while (0)

/*
 * FOLDER/in/{image,file,sub/file}, and FOLDER/secret, to which "link" leads; "up" leads to FOLDER,
 * "loop" to itself.
 */
static char folder[PATH_MAX];

static const char *const made[] = {"in/sub/file", "in/image", "in/file", "in/link", "in/up",
                                   "in/loop",     "secret",   "in/sub",  "in",      "."};

static void path_of(const char *name, char path[PATH_MAX + 32])
{
    snprintf(path, PATH_MAX + 32, "%s/%s", folder, name);
}

static void remove_folder(void)
{
    for (size_t i = 0; i < sizeof(made) / sizeof(made[0]); i++) {
        char path[PATH_MAX + 32];
        path_of(made[i], path);
        if (i + 1 == sizeof(made) / sizeof(made[0]))
            (void)!rmdir(folder);
        else
            (void)!remove(path);
    }
}

static void make_file(const char *name)
{
    char path[PATH_MAX + 32];
    path_of(name, path);
    FILE *file = fopen(path, "w");
    REQUIRE(file && fclose(file) == 0);
}

static void make_link(const char *name, const char *target)
{
    char path[PATH_MAX + 32];
    path_of(name, path);
    REQUIRE(symlink(target, path) == 0);
}

static void make_folder(void)
{
    char path[PATH_MAX + 32];
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof(path), "%s/vdisk-fuzz-XXXXXX", base ? base : "/tmp");
    REQUIRE(mkdtemp(path) && realpath(path, folder));
    atexit(remove_folder);
    path_of("in", path);
    REQUIRE(mkdir(path, 0700) == 0);
    path_of("in/sub", path);
    REQUIRE(mkdir(path, 0700) == 0);
    make_file("in/image");
    make_file("in/file");
    make_file("in/sub/file");
    make_file("secret");
    make_link("in/link", "../secret");
    make_link("in/up", "..");
    make_link("in/loop", "loop");
}

/* The next text, up to a zero byte. */
static void take_text(struct input *in, char text[TEXT_BYTES_MAX])
{
    size_t used = 0;
    while (in->left) {
        char byte = (char)input_take(in, 1);
        if (byte == 0)
            break;
        char one[2] = {byte, '\0'};
        const char *part = byte == 1 ? folder : one;
        if (used + strlen(part) < TEXT_BYTES_MAX) {
            memcpy(text + used, part, strlen(part));
            used += strlen(part);
        }
    }
    text[used] = '\0';
}

static void require_story(int ret, const struct vdisk_error *err)
{
    REQUIRE(ret == -err->code && err->message[0]);
    for (const char *at = err->message; *at; at++)
        REQUIRE((unsigned char)*at >= ' ' && *at != 0x7f);
}

static bool is_in(const char *path, const char *root)
{
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

/* It was permitted because it is beside @bearer: is it? */
static void require_beside(const char *bearer, const struct vd_named *named)
{
    char real[PATH_MAX], root[PATH_MAX];
    if (named->is_url) {
        size_t directory = strcspn(bearer, "?#");
        while (bearer[directory - 1] != '/')
            directory--;
        REQUIRE(!vd_storage_name_is_local(bearer));
        REQUIRE(strncmp(named->path, bearer, directory) == 0 ||
                strncmp(bearer + directory - 3, "://", 3) == 0); /* no directory at all */
        REQUIRE(!strstr(named->path, ".."));
        return;
    }
    char *copy = strdup(bearer);
    REQUIRE(copy);
    char *slash = strrchr(copy, '/');
    if (slash)
        slash[1] = '\0';
    REQUIRE(realpath(slash ? copy : ".", root) && realpath(named->path, real));
    REQUIRE(is_in(real, root) || strcmp(root, "/") == 0);
    free(copy);
}

static void ask(const char *bearer, const char *name, const struct vd_named *named, uint32_t flags)
{
    struct vdisk_gate policy = {.struct_bytes = sizeof(policy), .flags = flags};
    struct vdisk_error err = {0};
    struct vd_gate gate;
    struct vd_gate_pass pass;
    vd_gate_init(&gate, &policy);
    REQUIRE(vd_gate_check_policy(&policy, &err) == 0);
    int ret = vd_gate_trust_beside(&gate, bearer, false, &err);
    if (ret == 0)
        ret = vd_gate_ask(&gate, name, named, &pass, &err);
    vd_gate_destroy(&gate);
    if (ret < 0) {
        require_story(ret, &err);
        REQUIRE(flags || ret == -EPERM);
        return;
    }
    REQUIRE(flags & VDISK_GATE_BESIDE);
    REQUIRE(!named->is_json || (flags & VDISK_GATE_JSON));
    require_beside(bearer, named);
}

/* What was resolved means itself, unless it counts from somewhere. */
static void resolve_again(const char *bearer, const struct vd_named *named)
{
    struct vd_named again;
    struct vdisk_error err = {0};
    if (!named->is_url && (named->path[0] != '/' || !vd_storage_name_is_local(bearer)))
        return;
    REQUIRE(vd_named_resolve(&again, bearer, named->path, &err) == 0);
    REQUIRE(strcmp(again.path, named->path) == 0 && again.is_url == named->is_url);
    REQUIRE(!again.is_json && !again.format);
    vd_named_free(&again);
}

static void look(const char *bearer, const char *name)
{
    struct vd_named named = {0};
    struct vdisk_error err = {0};
    int ret = vd_named_resolve(&named, bearer, name, &err);
    if (ret < 0) {
        require_story(ret, &err);
        vd_named_free(&named);
        return;
    }
    REQUIRE(named.path && named.path[0]);
    REQUIRE(named.is_url == !vd_storage_name_is_local(named.path));
    REQUIRE(named.is_json == (strncmp(name, "json:", 5) == 0));
    REQUIRE(named.is_json || !named.format);
    ask(bearer, name, &named, 0);
    ask(bearer, name, &named, VDISK_GATE_BESIDE);
    ask(bearer, name, &named, VDISK_GATE_BESIDE | VDISK_GATE_JSON);
    ask(bearer, name, &named, VDISK_GATE_JSON);
    resolve_again(bearer, &named);
    vd_named_free(&named);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    static const char *const bearers[] = {"\1/in/image",
                                          "\1/in/sub/../image",
                                          "image",
                                          "http://host/dir/image",
                                          "https://host:8443/dir/sub/image?a=/b#c",
                                          "http://host",
                                          "\1/in/up/in/image",
                                          "/image"};
    struct input in = {.data = data, .left = length};
    char bearer[TEXT_BYTES_MAX], name[TEXT_BYTES_MAX];
    if (!folder[0])
        make_folder();
    uint8_t control = (uint8_t)input_take(&in, 1);
    const char *fixed = bearers[control % 8];
    struct input text = {.data = (const uint8_t *)fixed, .left = strlen(fixed)};
    take_text(control & 8 ? &in : &text, bearer);
    take_text(&in, name);
    if (bearer[0]) /* no image has no name */
        look(bearer, name);
    return 0;
}
