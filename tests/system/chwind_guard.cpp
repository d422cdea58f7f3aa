// The locking of chwind's guard (blog post of 2015-03-29, "Phalcon后台CLI邮件发送及通用脚本进程守护", blog.ch-wind.com/?p=1199),
// as it stands there: Exists, Mark, and the head of main with its exit statuses. What it then does with List.txt is left out.
#include <stdio.h>
#include <unistd.h>
#include <sys/types.h>
#include <sys/ipc.h>
#include <sys/sem.h>

const int       SEM_PRMS    = 0644;
const key_t    SEM_KEY        =  342345;

bool Exists(key_t _nKey)
{
    int nID = semget(_nKey, 0, 0);
    if (nID == -1) return false;

    return semctl(nID, 0, GETVAL, NULL) > 0;
}

bool Mark(key_t _nKey)
{
    int nID = semget(_nKey, 0, 0);
    if (nID == -1)
        nID = semget(_nKey, 1, IPC_CREAT | IPC_EXCL | SEM_PRMS);

    struct sembuf buf[2];
    buf[0].sem_num = 0;
    buf[0].sem_op = 0;
    buf[0].sem_flg = IPC_NOWAIT;
    buf[1].sem_num = 0;
    buf[1].sem_op = 1;
    buf[1].sem_flg = SEM_UNDO;//进程退出时自动回滚
    return semop(nID, &buf[0], 2) == 0;
}

int main(void)
{

    if(Exists(SEM_KEY)){
        return 1;
    }

    if(!Mark(SEM_KEY)){
        return 2;
    }

	printf("Guard开始运许|pid = %d\n", getpid());
	fflush(stdout);
	pause();
	return 0;
}
