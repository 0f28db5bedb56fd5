/** What both kinds of global transactions have in common: an image, commands, a decision. */
import { decideMessage } from './decide-message.ts'
import {
  type Decision,
  type MessageCommand,
  type MessageEffect,
  type Moment,
  NOTHING,
  refuse,
} from './decision.ts'
import type { EscrowError } from './errors.ts'
import { finishedAtMs, type MessageImage, statusOf } from './message.ts'
import { decideSaga } from './saga/decide-saga.ts'
import type { SagaCommand, SagaEffect, SagaMoment } from './saga/decision.ts'
import { type SagaImage, sagaFinishedAtMs, sagaStatusOf } from './saga/image.ts'

/** A global transaction, as it is after one record. Never changed in place. */
export type TransactionImage = MessageImage | SagaImage
/** What can be asked of a transaction. */
export type TransactionCommand = MessageCommand | SagaCommand
/** What is to leave once the next image is durable. */
export type TransactionEffect = MessageEffect | SagaEffect

/** What is to be done. No `next`: the image stays as it is. With `refused` nothing else is set. */
export interface TransactionDecision {
  readonly next?: TransactionImage
  readonly effects: readonly TransactionEffect[]
  readonly refused?: EscrowError
}

/** What decisions about either kind may know of the world. */
export interface TransactionMoment extends Moment, SagaMoment {}

/** Where the transaction stands, as everybody sees it. */
export type Status = ReturnType<typeof statusOf> | ReturnType<typeof sagaStatusOf>

/** Tells the kinds apart. */
export function isSaga(image: TransactionImage): image is SagaImage {
  return image.head.kind === 'saga'
}

/** The transaction's status, as everybody sees it. */
export function transactionStatusOf(image: TransactionImage): Status {
  return isSaga(image) ? sagaStatusOf(image) : statusOf(image)
}

/** When the transaction ended, by the wall clock; 0 while it lives. */
export function transactionFinishedAtMs(image: TransactionImage): number {
  return isSaga(image) ? sagaFinishedAtMs(image) : finishedAtMs(image)
}

/** Decides a command on an image of either kind, or on none. Pure but for what `moment` tells; total. */
export function decideTransaction(
  image: TransactionImage | undefined,
  command: TransactionCommand,
  moment: TransactionMoment,
): TransactionDecision {
  if (image === undefined) {
    return isOfSaga(command)
      ? decideSaga(undefined, command, moment)
      : decideMessage(undefined, command as MessageCommand, moment)
  }
  if (isSaga(image)) {
    return isOfMessage(command)
      ? notOfKind(image, command)
      : decideSaga(image, command as SagaCommand, moment)
  }
  return isOfSaga(command)
    ? notOfKind(image, command)
    : decideMessage(image, command as MessageCommand, moment)
}

/** Commands that only a message takes. What an operator says is for both kinds. */
function isOfMessage(command: TransactionCommand): boolean {
  switch (command.type) {
    case 'prepareMessage':
    case 'commitMessage':
    case 'rollbackMessage':
    case 'requestCheckBack':
    case 'checkBackDue':
    case 'answerCheckBack':
    case 'dispatchDelivery':
    case 'answerDelivery':
      return true
    default:
      return false
  }
}

/** Commands that only a saga takes. */
function isOfSaga(command: TransactionCommand): command is SagaCommand {
  switch (command.type) {
    case 'startSaga':
    case 'signalSaga':
    case 'cancelSaga':
    case 'completeStep':
    case 'answerStep':
    case 'dispatchStep':
    case 'timerDue':
    case 'deadlineDue':
    case 'stepDeadlineDue':
    case 'migrateSaga':
      return true
    default:
      return false
  }
}

function notOfKind({ head }: TransactionImage, command: TransactionCommand): Decision {
  switch (command.type) {
    case 'prepareMessage':
    case 'startSaga':
      return refuse(
        'idReused',
        `id ${JSON.stringify(head.id)} belongs to a transaction of kind ${head.kind}, with other content`,
      )
    case 'commitMessage':
    case 'rollbackMessage':
    case 'requestCheckBack':
      return refuse('unsupported', 'this transaction is a saga: signal, cancel, retry, skip or compensate it')
    case 'signalSaga':
    case 'cancelSaga':
    case 'completeStep':
    case 'migrateSaga':
      return refuse('unsupported', 'this transaction is a half message: commit, rollback, retry or skip it')
    default:
      return NOTHING
  }
}
