/* SPDX-License-Identifier: MIT */
/* What the verbs about repositories of backups have in common. */
#include "cli/backupopt.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cli/secret.h"
#include "util/mem.h"

#define KEY_BYTES_MIN   16u
#define REPOSITORY_FILE "vdisk-repository.json"
#define FILES_OPEN      4096u /* a point has a file open for each that it lies on: 1,024 at most */

/* --- the secret of a repository ----------------------------------------------------------------
 */

int vd_backup_key_take(const char *path, struct vd_backup_key *key)
{
    struct vdisk_error err = {0};
    vd_backup_key_free(key);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        vd_cli_error("--key-file: %s: %s", path, strerror(errno));
        return 1;
    }
    if (vd_secret_read_fd(fd, path, &key->bytes, &key->length, &err) < 0) {
        vd_cli_error("--key-file: %s", err.message);
        return 1;
    }
    if (key->length && key->bytes[key->length - 1] == '\n')
        key->length--;
    if (key->length >= KEY_BYTES_MIN)
        return VD_CLI_GO;
    vd_cli_error("--key-file: %s: a key of %zu bytes is too short: it has to have at least %u",
                 path, key->length, KEY_BYTES_MIN);
    return 1;
}

void vd_backup_key_free(struct vd_backup_key *key)
{
    vd_secret_free_bytes(key->bytes, key->length);
    *key = (struct vd_backup_key){0};
}

/* --- options ------------------------------------------------------------------------------------
 */

int vd_backup_take_rate(struct vd_cli *cli, const char *value, uint64_t *rate_bytes)
{
    int status = vd_cli_parse_size("--limit-rate", value, rate_bytes);
    if (status == VD_CLI_GO && *rate_bytes == 0)
        return vd_cli_usage_error(cli, "--limit-rate: a rate of 0 bytes a second would never end");
    return status;
}

int vd_backup_take_level(struct vd_cli *cli, const char *value, uint32_t *level)
{
    if (value[0] < '1' || value[0] > '9' || value[1])
        return vd_cli_usage_error(cli, "--compression-level: '%s' is not one of 1 to 9", value);
    *level = (uint32_t)(value[0] - '0');
    return VD_CLI_GO;
}

/* --- operands -----------------------------------------------------------------------------------
 */

static bool is_directory(const char *name)
{
    struct stat facts;
    return stat(name, &facts) == 0 && S_ISDIR(facts.st_mode);
}

int vd_backup_place_take(const char *operand, struct vd_backup_place *place)
{
    const char *at = is_directory(operand) ? NULL : strrchr(operand, '@');
    size_t length = at ? (size_t)(at - operand) : strlen(operand);
    *place = (struct vd_backup_place){.name = strndup(operand, length)};
    if (!place->name) {
        vd_cli_error("out of memory for the name of a repository");
        return 1;
    }
    if (at)
        place->point = at[1] ? at + 1 : "latest";
    return VD_CLI_GO;
}

void vd_backup_place_free(struct vd_backup_place *place)
{
    free(place->name);
    *place = (struct vd_backup_place){0};
}

static bool has_repository(const char *name, size_t length)
{
    struct stat facts;
    CLEANUP_FREE char *file = NULL;
    if (asprintf(&file, "%.*s/" REPOSITORY_FILE, (int)length, name) < 0) {
        file = NULL;
        return false;
    }
    return stat(file, &facts) == 0;
}

bool vd_backup_is_repository(const char *name)
{
    return has_repository(name, strlen(name));
}

bool vd_backup_names_point(const char *operand)
{
    const char *at = strrchr(operand, '@');
    struct stat facts;
    return at && stat(operand, &facts) < 0 && has_repository(operand, (size_t)(at - operand));
}

/* --- repositories -------------------------------------------------------------------------------
 */

void vd_backup_allow_files(void)
{
    vd_cli_allow_files(FILES_OPEN);
}

struct vdisk_repository *vd_backup_open(const char *name, const struct vd_backup_key *key,
                                        uint32_t flags)
{
    struct vdisk_repository_options options = {
        .struct_bytes = sizeof(options),
        .flags = flags,
        .key = key->bytes,
        .key_bytes = key->length,
    };
    struct vdisk_repository *repository;
    struct vdisk_error err = {0};
    vd_backup_allow_files();
    if (vdisk_repository_open(name, &options, &repository, &err) == 0)
        return repository;
    vd_cli_fail(&err);
    return NULL;
}

const char *vd_backup_kind_name(enum vdisk_point_kind kind)
{
    static const char *const names[] = {
        [VDISK_POINT_FULL] = "full",
        [VDISK_POINT_INCREMENTAL] = "incremental",
        [VDISK_POINT_DIFFERENTIAL] = "differential",
    };
    size_t index = (size_t)kind;
    bool is_known = index < sizeof(names) / sizeof(names[0]) && names[index];
    return is_known ? names[index] : "unknown";
}

const char *vd_backup_tracker_name(enum vdisk_tracker tracker)
{
    static const char *const names[] = {
        [VDISK_TRACKER_NONE] = "none",       [VDISK_TRACKER_COMPARE] = "compare",
        [VDISK_TRACKER_BITMAP] = "bitmap",   [VDISK_TRACKER_VERSIONS] = "versions",
        [VDISK_TRACKER_OVERLAY] = "overlay", [VDISK_TRACKER_NBD] = "nbd",
    };
    size_t index = (size_t)tracker;
    bool is_known = index < sizeof(names) / sizeof(names[0]) && names[index];
    return is_known ? names[index] : "unknown";
}

const char *vd_backup_time_text(int64_t seconds, bool is_iso, char text[VD_BACKUP_TIME_BYTES])
{
    time_t when = (time_t)seconds;
    struct tm tm;
    bool is_date =
        gmtime_r(&when, &tm) && strftime(text, VD_BACKUP_TIME_BYTES,
                                         is_iso ? "%Y-%m-%dT%H:%M:%SZ" : "%Y-%m-%d %H:%M:%S", &tm);
    if (!is_date) /* a year of more digits than anybody lives to see */
        snprintf(text, VD_BACKUP_TIME_BYTES, "@%" PRId64, seconds);
    return text;
}
