/*
 * neon_redo_sandbox.c - what the redo process gives up before it looks at the first record.
 *
 * Records come from tenants and redo routines trust them; a crafted record may well take this process over.  So it keeps its
 * socket and the right to allocate memory, nothing else: no files, no network, no other process, no executable memory,
 * no core dump.  A system call outside the list kills it.
 *
 * It dies with its backend (PR_SET_PDEATHSIG, and end of file on the socket), and it leaves nothing behind when it is killed:
 * the shared memory segment is marked for removal as soon as it exists, the directory is removed by the backend.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_redo.h"

#include <linux/audit.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "storage/pg_shmem.h"

#include "ps_redo_wire.h"

#ifndef __x86_64__
#error "the list of system calls is written for x86-64"
#endif

#define MAX_ADDRESS_SPACE_BYTES	(UINT64CONST(1) << 30)

void
neon_redo_die_with_parent(void)
{
	const char *parent = getenv(PS_REDO_ENV_PARENT);

	if (parent == NULL)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_redo is loaded only by the redo processes that a pageserver starts"),
				 errhint("Remove neon_redo from shared_preload_libraries.")));
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0)
		ereport(FATAL, (errmsg("could not tie the redo process to its parent: %m")));
	/* The parent may have died before the line above. */
	if (getppid() != (pid_t) atol(parent))
		_exit(1);
}

void
neon_redo_forget_files(void)
{
	int			id = shmget((key_t) UsedShmemSegID, 0, 0);

	if (id < 0 || shmctl(id, IPC_RMID, NULL) != 0)
		ereport(FATAL, (errmsg("could not mark shared memory for removal: %m")));
}

/* Jumps are relative: on no match the next pair is tried. */
#define ALLOW(call) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

void
neon_redo_enter_sandbox(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(read),
		ALLOW(write),
		ALLOW(brk),
		ALLOW(munmap),
		ALLOW(mremap),
		ALLOW(futex),
		ALLOW(clock_gettime),
		ALLOW(restart_syscall),
		ALLOW(exit_group),
		/* mmap only without PROT_EXEC; the low half of the third argument. */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_mmap, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = {.len = lengthof(filter), .filter = filter};
	struct rlimit none = {0, 0};
	struct rlimit space = {MAX_ADDRESS_SPACE_BYTES, MAX_ADDRESS_SPACE_BYTES};

	if (syscall(SYS_close_range, PS_REDO_SOCKET_FD + 1, ~0U, 0) != 0)
		ereport(FATAL, (errmsg("could not close files: %m")));
	if (setrlimit(RLIMIT_CORE, &none) != 0 || setrlimit(RLIMIT_AS, &space) != 0)
		ereport(FATAL, (errmsg("could not set resource limits: %m")));
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		ereport(FATAL,
				(errmsg("could not enter the sandbox: %m"),
				 errhint("The kernel must support seccomp filters.")));
}
