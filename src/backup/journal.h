/* SPDX-License-Identifier: MIT */
/*
 * Changes to several files of a repository that are all done, or none.
 *
 * L1  Nothing of it is done before vd_journal_commit() has made journal.json, durable; afterwards
 *     all of it will be, by this process or by whoever opens the repository next.
 * L2  Each step may be done again after it has been done, and all of them after all: no step gives
 *     a name that an earlier one has taken away.
 * L3  With VD_REPOSITORY_ADD nothing that a point has is touched, so that those who read need not
 *     be kept away, now or when somebody else has to finish it.
 */
#ifndef VD_BACKUP_JOURNAL_H
#define VD_BACKUP_JOURNAL_H

#include "backup/repository.h"

struct vd_journal {
    struct vdisk_repository *repository;
    json_t *steps;  /* owned */
    bool has_begun; /* set by vd_journal_commit(): it is done, or will be; or nobody can tell */
};

int vd_journal_begin(struct vd_journal *journal, struct vdisk_repository *repository,
                     struct vdisk_error *err);
void vd_journal_end(struct vd_journal *journal); /* frees; of a zeroed one, too */

/* The steps, done in this order.  Names are of files in the repository. */

/* @log, which vd_redo_finish() has made, is applied to @file.  A @file that is not there any more
 * has got another name since, by a later step. */
int vd_journal_apply(struct vd_journal *journal, const char *log, const uint8_t *digest,
                     const char *file, struct vdisk_error *err);
/* @to is replaced.  A @from that is not there has been renamed before. */
int vd_journal_rename(struct vd_journal *journal, const char *from, const char *to,
                      struct vdisk_error *err);
int vd_journal_remove(struct vd_journal *journal, const char *name, struct vdisk_error *err);

/* L1, and does it all.  When it fails, journal->has_begun tells whether what it is about may be
 * taken back: only if it is false. */
int vd_journal_commit(struct vd_journal *journal, struct vdisk_error *err);

/* Is there a journal?  0 or 1, or a negative errno. */
int vd_journal_is_pending(const struct vdisk_repository *repository, struct vdisk_error *err);

/* 1: there is a journal, and this is the @access that recovering takes; 0: there is none; or a
 * negative errno. */
int vd_journal_needs(const struct vdisk_repository *repository, enum vd_repository_access *access,
                     struct vdisk_error *err);

/* Does what a journal says, if there is one.  The repository is locked as vd_journal_needs() says,
 * or for VD_REPOSITORY_CHANGE.  -EBADMSG: it is damaged, or a file of it is: then nothing, or no
 * more, is done. */
int vd_journal_recover(struct vdisk_repository *repository, struct vdisk_error *err);

#endif
