/* SPDX-License-Identifier: MIT */
/* What the verbs about repositories of backups have in common. */
#ifndef VD_CLI_BACKUPOPT_H
#define VD_CLI_BACKUPOPT_H

#include "cli/cli.h"

/* The row of --key-file in a table of options. */
#define VD_BACKUP_KEY_FILE(key)                                                              \
    {                                                                                        \
        key, "key-file", "FILE", "secret of a repository that is to be proof against malice" \
    }

/* --- the secret of a repository ----------------------------------------------------------------
 */

/* Starts zeroed: there is none. */
struct vd_backup_key {
    char *bytes; /* owned */
    size_t length;
};

/* Takes --key-file: what is in the file, less one newline at its end.  Returns VD_CLI_GO or the
 * exit status. */
int vd_backup_key_take(const char *path, struct vd_backup_key *key);

/* Overwrites it. */
void vd_backup_key_free(struct vd_backup_key *key);

/* --- options ------------------------------------------------------------------------------------
 */

/* The argument of --limit-rate, bytes a second.  Return VD_CLI_GO or the exit status. */
int vd_backup_take_rate(struct vd_cli *cli, const char *value, uint64_t *rate_bytes);

/* The argument of --compression-level. */
int vd_backup_take_level(struct vd_cli *cli, const char *value, uint32_t *level);

/* --- operands -----------------------------------------------------------------------------------
 */

/* What REPOSITORY[@POINT] means. */
struct vd_backup_place {
    char *name;        /* owned: of the directory */
    const char *point; /* within the operand; NULL: none was given, "latest" for "@" alone */
};

/* A directory is a repository without a point, whatever its name; otherwise what follows the last @
 * is the point.  Returns VD_CLI_GO or the exit status. */
int vd_backup_place_take(const char *operand, struct vd_backup_place *place);
void vd_backup_place_free(struct vd_backup_place *place); /* of a zeroed one, too */

/* Is there a repository of this name? */
bool vd_backup_is_repository(const char *name);

/* Is this a point, rather than the name of an image?  There is a repository before the last @, and
 * no such file. */
bool vd_backup_names_point(const char *operand);

/* --- repositories -------------------------------------------------------------------------------
 */

/* Permits as many open files as a long chain of points wants. */
void vd_backup_allow_files(void);

/* @flags: of enum vdisk_repository_flag.  Prints what is wrong and returns NULL if it can not. */
struct vdisk_repository *vd_backup_open(const char *name, const struct vd_backup_key *key,
                                        uint32_t flags);

/* Words for people and programs. */
const char *vd_backup_kind_name(enum vdisk_point_kind kind);
const char *vd_backup_tracker_name(enum vdisk_tracker tracker);

#define VD_BACKUP_TIME_BYTES 32
/* "2026-11-22 01:30:00", or with a T and a Z for programs. */
const char *vd_backup_time_text(int64_t seconds, bool is_iso, char text[VD_BACKUP_TIME_BYTES]);

#endif
